//! `#[derive(Fields)]`.

use std::collections::BTreeSet;

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Field, Ident, Lifetime, Result, Type};

use crate::attributes::{Attributes, Kind, Of, Part};
use crate::shape::{is_text, named_fields, only_lifetime, unwrap};

/// What one field adds to the implementation.
struct Expansion {
    /// The type of its opened column.
    rows: TokenStream,
    /// Subscribes it.
    subscribe: TokenStream,
    /// Opens its column.
    open: TokenStream,
    /// Reads one cell; `rows` and `row` are in scope.
    read: TokenStream,
}

/// Implements `Input`.
pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let own = only_lifetime(input, "Fields")?;
    let lifetime = own.clone().unwrap_or_else(|| Lifetime::new("'batch", input.ident.span()));
    let name = &input.ident;
    let generics = own.as_ref().map(|lifetime| quote!(<#lifetime>));
    let rows_name = format_ident!("__{}Rows", name);
    let mut headers = BTreeSet::new();
    let mut idents = Vec::new();
    let mut parts = Vec::new();
    let mut errors: Option<Error> = None;
    for field in named_fields(input, "Fields")? {
        let expansion = Attributes::read(field, Of::Field).and_then(|attributes| {
            if let Some(Part::Header(name)) = &attributes.part
                && !headers.insert(name.clone())
            {
                return Err(Error::new_spanned(field, format!("header `{name}` is read twice: once is enough")));
            }
            expand_field(field, &attributes, &lifetime)
        });
        match expansion {
            Ok(expansion) => {
                idents.push(field.ident.as_ref().expect("named fields only"));
                parts.push(expansion);
            }
            Err(error) => match &mut errors {
                Some(all) => all.combine(error),
                None => errors = Some(error),
            },
        }
    }
    if let Some(errors) = errors {
        return Err(errors);
    }
    let columns: Vec<Ident> = (0..parts.len()).map(|index| format_ident!("c{}", index)).collect();
    let (rows, subscribe, open, read): (Vec<_>, Vec<_>, Vec<_>, Vec<_>) =
        parts.into_iter().map(|part| (part.rows, part.subscribe, part.open, part.read)).collect();
    let read = read.iter().zip(&columns).map(|(read, column)| quote!({ let rows = &rows.#column; #read }));
    Ok(quote! {
        const _: () = {
            #[doc(hidden)]
            #[allow(non_camel_case_types)]
            pub struct #rows_name<#lifetime> {
                #(#columns: #rows,)*
                batch: ::core::marker::PhantomData<&#lifetime ()>,
            }
            impl<#lifetime> ::pelton_sdk::input::Input<#lifetime> for #name #generics {
                type Rows = #rows_name<#lifetime>;
                fn subscribe(subscriber: &mut ::pelton_sdk::input::Subscriber) {
                    #(#subscribe)*
                    let _ = subscriber;
                }
                fn open(batch: &mut ::pelton_sdk::input::BatchReader<#lifetime>) -> Self::Rows {
                    #rows_name { #(#columns: #open,)* batch: ::core::marker::PhantomData }
                }
                #[inline]
                fn read(
                    rows: &Self::Rows,
                    row: usize,
                ) -> ::core::result::Result<Self, ::pelton_sdk::Failure> {
                    let _ = (rows, row);
                    ::core::result::Result::Ok(Self { #(#idents: #read,)* })
                }
            }
        };
    })
}

fn expand_field(field: &Field, attributes: &Attributes, lifetime: &Lifetime) -> Result<Expansion> {
    let optional = unwrap(&field.ty, "Option");
    let inner = optional.unwrap_or(&field.ty);
    match &attributes.part {
        Some(part) => Ok(expand_part(part, inner, optional.is_some(), lifetime)),
        None => expand_typed(attributes, field, inner, optional.is_some(), lifetime),
    }
}

fn expand_typed(
    attributes: &Attributes,
    field: &Field,
    inner: &Type,
    optional: bool,
    lifetime: &Lifetime,
) -> Result<Expansion> {
    if let (Some(span), false) = (attributes.mismatch_null, optional) {
        let ident = field.ident.as_ref().expect("named fields only");
        return Err(Error::new(
            span,
            format!("on_mismatch = \"null\" needs a place for the null: write `{ident}: Option<…>`"),
        ));
    }
    let kind = match attributes.kind {
        Kind::Plain => quote!(Plain),
        Kind::Symbol => quote!(Symbol),
        Kind::Json if is_text(inner) => quote!(RawJson),
        Kind::Json => quote!(Json),
    };
    let path = &attributes.path;
    let label = path.join(".");
    let mismatch_null = attributes.mismatch_null.is_some();
    // The type's own span: an unsupported type is underlined where it is written.
    let reads = quote_spanned! {inner.span()=>
        <::pelton_sdk::input::#kind as ::pelton_sdk::input::ReadCell<#lifetime, #inner>>
    };
    let [cells, field_type, open, read_cell] =
        ["Cells", "TYPE", "open", "read"].map(|item| Ident::new(item, inner.span())).map(|item| {
            let separator = quote_spanned!(inner.span()=> ::);
            quote!(#reads #separator #item)
        });
    let read = match (optional, mismatch_null) {
        (false, _) => quote!(rows.required(row, |cells| #read_cell(cells, row), #label)?),
        (true, false) => quote!(rows.optional(row, |cells| #read_cell(cells, row), #label)?),
        (true, true) => quote!(rows.lenient(row, |cells| #read_cell(cells, row))),
    };
    Ok(Expansion {
        rows: quote!(::pelton_sdk::input::FieldRows<#lifetime, #cells>),
        subscribe: quote!(subscriber.field(&[#(#path),*], #field_type, #optional, #mismatch_null);),
        open: quote!(::pelton_sdk::input::FieldRows::open(batch, #open)),
        read,
    })
}

fn expand_part(part: &Part, inner: &Type, optional: bool, lifetime: &Lifetime) -> Expansion {
    let required_or_optional = |name: &str| {
        if optional {
            quote_spanned!(inner.span()=> ::pelton_sdk::input::part::optional(rows.get(row), #name)?)
        } else {
            quote_spanned!(inner.span()=> ::pelton_sdk::input::part::required(rows.get(row), #name)?)
        }
    };
    let bytes = quote_spanned!(inner.span()=> ::pelton_sdk::input::part::BytesRows<#lifetime>);
    let (rows, subscribe, open, name) = match part {
        Part::Key => (bytes, quote!(subscriber.key();), quote!(batch.keys()), "key".to_owned()),
        Part::Value => (bytes, quote!(subscriber.value();), quote!(batch.values()), "value".to_owned()),
        Part::Header(header) => {
            (bytes, quote!(subscriber.header(#header);), quote!(batch.header()), format!("header `{header}`"))
        }
        Part::Headers => (
            quote!(::pelton_sdk::input::part::HeaderRows<#lifetime>),
            quote!(subscriber.all_headers();),
            quote!(batch.all_headers()),
            "headers".to_owned(),
        ),
        Part::Offset => (
            quote!(::pelton_sdk::input::part::OffsetRows<#lifetime>),
            quote!(subscriber.offset();),
            quote!(batch.offsets()),
            "offset".to_owned(),
        ),
        Part::Timestamp => (
            quote!(::pelton_sdk::input::part::TimestampRows<#lifetime>),
            quote!(subscriber.timestamp();),
            quote!(batch.timestamps()),
            "timestamp".to_owned(),
        ),
        Part::Topic => (
            quote!(::pelton_sdk::input::part::TopicRows<#lifetime>),
            quote!(),
            quote!(batch.topic()),
            "topic".to_owned(),
        ),
        Part::Partition => (
            quote!(::pelton_sdk::input::part::PartitionRows),
            quote!(),
            quote!(batch.partition()),
            "partition".to_owned(),
        ),
    };
    Expansion { rows, subscribe, open, read: required_or_optional(&name) }
}
