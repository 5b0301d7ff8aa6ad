//! `#[derive(Columns)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Field, Ident, Lifetime, Result};

use crate::attributes::{Attributes, Kind, Of};
use crate::shape::{is_text, named_fields, only_lifetime, unwrap};

/// What one field adds to the implementation.
struct Expansion {
    cells: TokenStream,
    subscribe: TokenStream,
    /// Pushes one cell; `writer` and `value` (a reference to the field) are in scope.
    push: TokenStream,
}

/// Implements `Columns`.
pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let own = only_lifetime(input, "Columns")?;
    let name = &input.ident;
    let generics = own.as_ref().map(|lifetime| quote!(<#lifetime>));
    let writer_name = format_ident!("__{}Writer", name);
    let mut paths: Vec<Vec<String>> = Vec::new();
    let mut idents = Vec::new();
    let mut parts = Vec::new();
    let mut errors: Option<Error> = None;
    for field in named_fields(input, "Columns")? {
        let expansion = Attributes::read(field, Of::Column).and_then(|attributes| {
            not_within(&paths, &attributes.path, field)?;
            paths.push(attributes.path.clone());
            expand_field(field, &attributes)
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
    let (cells, subscribe, push): (Vec<_>, Vec<_>, Vec<_>) =
        parts.into_iter().map(|part| (part.cells, part.subscribe, part.push)).collect();
    let push =
        push.iter().zip(&columns).zip(&idents).map(
            |((push, column), ident)| quote!({ let (writer, value) = (&mut writer.#column, &self.#ident); #push }),
        );
    Ok(quote! {
        const _: () = {
            #[doc(hidden)]
            #[allow(non_camel_case_types)]
            pub struct #writer_name {
                #(#columns: ::pelton_sdk::columns::Writer<#cells>,)*
            }
            impl #generics ::pelton_sdk::columns::Columns for #name #generics {
                type Writer = #writer_name;
                fn subscribe(subscriber: &mut ::pelton_sdk::input::Subscriber) {
                    #(#subscribe)*
                    let _ = subscriber;
                }
                fn writer(rows: usize) -> Self::Writer {
                    let _ = rows;
                    #writer_name { #(#columns: ::pelton_sdk::columns::Writer::with_capacity(rows),)* }
                }
                #[inline]
                fn push(&self, writer: &mut Self::Writer) {
                    #(#push)*
                    let _ = writer;
                }
                fn push_nothing(writer: &mut Self::Writer) {
                    #(writer.#columns.leave();)*
                    let _ = writer;
                }
                fn finish(writer: Self::Writer) -> ::std::vec::Vec<::pelton_sdk::columns::SetColumn> {
                    ::std::vec![#(writer.#columns.finish()),*]
                }
            }
        };
    })
}

/// A field of the value is set once, and not both as a whole and in part.
fn not_within(paths: &[Vec<String>], path: &[String], field: &Field) -> Result<()> {
    match paths.iter().find(|other| other.starts_with(path) || path.starts_with(other)) {
        None => Ok(()),
        Some(other) => {
            let message =
                format!("`{}` and `{}` lie within each other: set one of them", other.join("."), path.join("."));
            Err(Error::new_spanned(field, message))
        }
    }
}

fn expand_field(field: &Field, attributes: &Attributes) -> Result<Expansion> {
    let optional = unwrap(&field.ty, "Option");
    let set = unwrap(&field.ty, "Set");
    let inner = optional.or(set).unwrap_or(&field.ty);
    let kind = match attributes.kind {
        Kind::Plain => quote!(Plain),
        Kind::Symbol => quote!(Symbol),
        Kind::Json if is_text(inner) => quote!(RawJson),
        Kind::Json => quote!(Json),
    };
    let path = &attributes.path;
    // The writer outlives no batch, so that its type names no lifetime of the struct.
    let erased = erase_lifetimes(inner);
    let writes = quote_spanned! {inner.span()=>
        <::pelton_sdk::input::#kind as ::pelton_sdk::columns::WriteCell<#inner>>
    };
    let writes_erased = quote_spanned! {inner.span()=>
        <::pelton_sdk::input::#kind as ::pelton_sdk::columns::WriteCell<#erased>>
    };
    let item = |of: &TokenStream, item: &str| {
        let (separator, item) = (quote_spanned!(inner.span()=> ::), Ident::new(item, inner.span()));
        quote!(#of #separator #item)
    };
    let (write, cells, field_type) =
        (item(&writes, "write"), item(&writes_erased, "Cells"), item(&writes_erased, "TYPE"));
    let push = if optional.is_some() {
        quote!(match value {
            ::core::option::Option::Some(value) => writer.set(|cells| #write(cells, value)),
            ::core::option::Option::None => writer.leave(),
        })
    } else if set.is_some() {
        quote!(match value {
            ::pelton_sdk::Set::Value(value) => writer.set(|cells| #write(cells, value)),
            ::pelton_sdk::Set::Leave => writer.leave(),
            ::pelton_sdk::Set::Null => writer.null(),
            ::pelton_sdk::Set::Remove => writer.remove(),
        })
    } else {
        quote!(writer.set(|cells| #write(cells, value));)
    };
    Ok(Expansion { cells, subscribe: quote!(subscriber.output(&[#(#path),*], #field_type);), push })
}

/// The type with every lifetime made `'static`.
fn erase_lifetimes(ty: &syn::Type) -> syn::Type {
    struct Erase;
    impl syn::visit_mut::VisitMut for Erase {
        fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
            *lifetime = Lifetime::new("'static", lifetime.span());
        }
        fn visit_type_reference_mut(&mut self, reference: &mut syn::TypeReference) {
            reference.lifetime = Some(Lifetime::new("'static", reference.span()));
            syn::visit_mut::visit_type_reference_mut(self, reference);
        }
    }
    let mut erased = ty.clone();
    syn::visit_mut::VisitMut::visit_type_mut(&mut Erase, &mut erased);
    erased
}
