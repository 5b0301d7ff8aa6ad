//! What both derives ask of the struct and of its types.

use syn::{
    Data, DeriveInput, Error, Field, Fields, GenericArgument, GenericParam, Lifetime, PathArguments, Result, Type,
};

/// The named fields of a struct, or an error that says what to write.
pub(crate) fn named_fields<'s>(input: &'s DeriveInput, derive: &str) -> Result<Vec<&'s Field>> {
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Ok(fields.named.iter().collect()),
            Fields::Unit => Ok(Vec::new()),
            Fields::Unnamed(_) => Err(Error::new_spanned(
                &input.ident,
                format!("#[derive({derive})] needs field names: struct {} {{ name: Type, … }}", input.ident),
            )),
        },
        _ => Err(Error::new_spanned(&input.ident, format!("#[derive({derive})] works on structs only"))),
    }
}

/// The struct's only lifetime, where it has one.
pub(crate) fn only_lifetime(input: &DeriveInput, derive: &str) -> Result<Option<Lifetime>> {
    let mut found = None;
    for param in &input.generics.params {
        match param {
            GenericParam::Lifetime(lifetime) if found.is_none() => found = Some(lifetime.lifetime.clone()),
            GenericParam::Lifetime(lifetime) => {
                return Err(Error::new_spanned(
                    lifetime,
                    format!("#[derive({derive})] takes one lifetime: that of the batch. Use the first one here, too"),
                ));
            }
            GenericParam::Type(_) | GenericParam::Const(_) => {
                return Err(Error::new_spanned(
                    param,
                    format!("#[derive({derive})] takes no type parameters: write the types of the fields"),
                ));
            }
        }
    }
    Ok(found)
}

/// `T` of `Wrapper<T>`, where the type is written so.
pub(crate) fn unwrap<'t>(ty: &'t Type, wrapper: &str) -> Option<&'t Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == wrapper)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) if arguments.args.len() == 1 => Some(inner),
        _ => None,
    }
}

/// Whether the type is written as `&str` or `String`.
pub(crate) fn is_text(ty: &Type) -> bool {
    match ty {
        Type::Reference(reference) => is_named(&reference.elem, "str"),
        other => is_named(other, "String"),
    }
}

fn is_named(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == name))
}
