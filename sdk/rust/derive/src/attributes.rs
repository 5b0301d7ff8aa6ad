//! What stands in `#[field(…)]` and `#[column(…)]`.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::{Error, Field, LitStr, Result, Token};

/// Which part of a record a field of the struct is.
pub(crate) enum Part {
    /// `key`
    Key,
    /// `value`
    Value,
    /// `header = "name"`
    Header(String),
    /// `headers`
    Headers,
    /// `offset`
    Offset,
    /// `timestamp`
    Timestamp,
    /// `topic`
    Topic,
    /// `partition`
    Partition,
}

/// How the text of a field crosses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the Rust type.
    Plain,
    /// `symbol`
    Symbol,
    /// `json`
    Json,
}

/// The attributes of one field.
pub(crate) struct Attributes {
    /// Object keys from the root.
    pub(crate) path: Vec<String>,
    /// `symbol`, `json`, or neither.
    pub(crate) kind: Kind,
    /// `on_mismatch = "null"`, and where it stands.
    pub(crate) mismatch_null: Option<Span>,
    /// Where the field is a part of the record and no typed field.
    pub(crate) part: Option<Part>,
}

/// Which derive reads the attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// `#[field(…)]`
    Field,
    /// `#[column(…)]`
    Column,
}

impl Attributes {
    /// Reads the attributes of a field.
    pub(crate) fn read(field: &Field, of: Of) -> Result<Self> {
        let ident = field.ident.as_ref().expect("the caller takes named fields only");
        let ident = ident.to_string();
        let own_name = ident.strip_prefix("r#").unwrap_or(&ident).to_owned();
        let mut read = Self { path: vec![own_name], kind: Kind::Plain, mismatch_null: None, part: None };
        let mut named = false;
        for attribute in &field.attrs {
            let (wanted, other) = match of {
                Of::Field => ("field", "column"),
                Of::Column => ("column", "field"),
            };
            if attribute.path().is_ident(other) {
                return Err(Error::new_spanned(attribute, format!("this derive reads #[{wanted}(…)]")));
            }
            if attribute.path().is_ident(wanted) {
                attribute.parse_nested_meta(|meta| read.take(&meta, of, &mut named))?;
            }
        }
        if read.part.is_some() && (named || read.kind != Kind::Plain || read.mismatch_null.is_some()) {
            return Err(Error::new_spanned(
                field,
                "a part of the record (key, value, header, …) takes no path, name, symbol, json or on_mismatch",
            ));
        }
        Ok(read)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>, of: Of, named: &mut bool) -> Result<()> {
        let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match (key.as_str(), of) {
            ("path" | "name", _) if *named => return Err(meta.error("path or name was given already")),
            ("path", _) => {
                self.path = read_path(meta)?;
                *named = true;
            }
            ("name", _) => {
                self.path = vec![not_empty(&meta.value()?.parse::<LitStr>()?)?];
                *named = true;
            }
            ("symbol" | "json", _) if self.kind != Kind::Plain => {
                return Err(meta.error("a field is either symbol or json, not both"));
            }
            ("symbol", _) => self.kind = Kind::Symbol,
            ("json", _) => self.kind = Kind::Json,
            ("on_mismatch", Of::Field) => self.on_mismatch(meta)?,
            (_, Of::Field) => return self.take_part(meta, &key),
            (_, Of::Column) => return Err(meta.error("unknown attribute; known are: path, name, symbol, json")),
        }
        Ok(())
    }

    fn on_mismatch(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let policy = meta.value()?.parse::<LitStr>()?;
        match policy.value().as_str() {
            "null" => self.mismatch_null = Some(policy.span()),
            "reject" => self.mismatch_null = None,
            _ => return Err(Error::new_spanned(policy, "on_mismatch is \"null\" or \"reject\" (the default)")),
        }
        Ok(())
    }

    fn take_part(&mut self, meta: &ParseNestedMeta<'_>, key: &str) -> Result<()> {
        let part = match key {
            "key" => Part::Key,
            "value" => Part::Value,
            "header" => Part::Header(not_empty(&meta.value()?.parse::<LitStr>()?)?),
            "headers" => Part::Headers,
            "offset" => Part::Offset,
            "timestamp" => Part::Timestamp,
            "topic" => Part::Topic,
            "partition" => Part::Partition,
            _ => {
                return Err(meta.error(
                    "unknown attribute; known are: path, name, symbol, json, on_mismatch, and for parts of the record: \
                     key, value, header = \"name\", headers, offset, timestamp, topic, partition",
                ));
            }
        };
        if self.part.replace(part).is_some() {
            return Err(meta.error("a field can be only one part of the record"));
        }
        Ok(())
    }
}

/// `path = "a.b"` or `path = ["a", "b"]`.
fn read_path(meta: &ParseNestedMeta<'_>) -> Result<Vec<String>> {
    let stream = meta.value()?;
    if stream.peek(syn::token::Bracket) {
        let names;
        syn::bracketed!(names in stream);
        let path = Punctuated::<LitStr, Token![,]>::parse_terminated(&names)?;
        return match path.is_empty() {
            true => Err(meta.error("a path has at least one name")),
            false => path.iter().map(not_empty).collect(),
        };
    }
    let Ok(text) = stream.parse::<LitStr>() else {
        return Err(meta.error("a path is a text with dots, \"a.b\", or a list of names, [\"a\", \"b\"]"));
    };
    let path: Vec<String> = text.value().split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(Error::new_spanned(text, "a path has no empty names: write \"a.b\""));
    }
    Ok(path)
}

fn not_empty(text: &LitStr) -> Result<String> {
    if text.value().is_empty() { Err(Error::new_spanned(text, "a name is not empty")) } else { Ok(text.value()) }
}
