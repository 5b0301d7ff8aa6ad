//! TLS for the connection.
//!
//! In: `cassandra.tls` and the contact points. Out: a context for the driver. Certificates are always verified; with
//! `verify_hostname` a node's certificate must also name the node's own address or one of the contact points. Never shows what stands in a file.

use std::net::IpAddr;
use std::path::Path;

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::{X509, X509Ref, X509VerifyResult};
use scylla::client::session::{OpenSsl010Config, TlsContext};

use super::errors::CassandraError;
use crate::config::Tls;

/// `X509_V_ERR_IP_ADDRESS_MISMATCH` of OpenSSL.
const ADDRESS_NOT_NAMED: i32 = 64;

/// A context that trusts what the settings say.
pub(crate) fn context(settings: &Tls, contact_points: &[String]) -> Result<TlsContext, CassandraError> {
    let library = |error: openssl::error::ErrorStack| CassandraError::Setting {
        key: "tls",
        message: format!("OpenSSL: {error}"),
    };
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(library)?;
    if let Some(file) = &settings.ca {
        builder.set_cert_store(store(file)?);
    }
    match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => {
            builder
                .set_certificate_chain_file(certificate)
                .map_err(|error| unusable("certificate", certificate, &error))?;
            builder.set_private_key_file(key, SslFiletype::PEM).map_err(|error| unusable("key", key, &error))?;
            builder.check_private_key().map_err(|_| CassandraError::Tls {
                key: "key",
                file: key.clone(),
                message: format!("is not the key of {}", certificate.display()),
            })?;
        }
        (Some(file), None) => return Err(alone("key", "certificate", file)),
        (None, Some(file)) => return Err(alone("certificate", "key", file)),
        (None, None) => {}
    }
    let hosts: Vec<String> = contact_points.iter().map(|point| host_of(point).to_owned()).collect();
    let any_name = !settings.verify_hostname;
    builder.set_verify_callback(SslVerifyMode::PEER, move |verified, chain| {
        // The driver has OpenSSL look for the node's address in its certificate, whatever the settings say. Where that
        // alone is amiss, the settings decide.
        if verified || chain.error().as_raw() != ADDRESS_NOT_NAMED {
            return verified;
        }
        let fits = any_name || chain.current_cert().is_some_and(|own| names_one_of(own, &hosts));
        if fits {
            chain.set_error(X509VerifyResult::OK);
        }
        fits
    });
    Ok(TlsContext::OpenSsl010Config(OpenSsl010Config::new(builder)))
}

/// These certificates and no others.
fn store(file: &Path) -> Result<X509Store, CassandraError> {
    let because = |message: String| CassandraError::Tls { key: "ca", file: file.to_owned(), message };
    let pem = std::fs::read(file).map_err(|error| because(error.to_string()))?;
    let build = || {
        let certificates = X509::stack_from_pem(&pem)?;
        let mut store = X509StoreBuilder::new()?;
        let count = certificates.len();
        certificates.into_iter().try_for_each(|certificate| store.add_cert(certificate))?;
        Ok((count, store.build()))
    };
    match build() {
        Ok((0, _)) => Err(because("holds no certificate as PEM".into())),
        Ok((_, store)) => Ok(store),
        Err(error) => Err(unusable("ca", file, &error)),
    }
}

fn unusable(key: &'static str, file: &Path, error: &openssl::error::ErrorStack) -> CassandraError {
    let message = match std::fs::metadata(file) {
        Err(error) => error.to_string(),
        Ok(_) => format!("cannot be read as PEM ({})", error.errors().first().and_then(|e| e.reason()).unwrap_or("?")),
    };
    CassandraError::Tls { key, file: file.to_owned(), message }
}

fn alone(key: &'static str, other: &str, file: &Path) -> CassandraError {
    CassandraError::Setting {
        key: "tls",
        message: format!("`{key}` is missing, but `{other}: {}` is given", file.display()),
    }
}

/// The host of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare v6 address.
pub(crate) fn host_of(point: &str) -> &str {
    if let Some(rest) = point.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    match point.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') => host,
        _ => point,
    }
}

fn names_one_of(certificate: &X509Ref, hosts: &[String]) -> bool {
    let Some(names) = certificate.subject_alt_names() else { return false };
    hosts.iter().any(|host| match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => names.iter().any(|name| name.ipaddress() == Some(&address.octets()[..])),
        Ok(IpAddr::V6(address)) => names.iter().any(|name| name.ipaddress() == Some(&address.octets()[..])),
        Err(_) => names.iter().filter_map(|name| name.dnsname()).any(|name| is_name_of(name, host)),
    })
}

/// Whether a certificate's name, perhaps with `*` as its first label, stands for a host.
fn is_name_of(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        None => name.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::pkey::{PKey, Private};
    use openssl::rsa::Rsa;
    use openssl::x509::extension::SubjectAlternativeName;

    use super::*;

    fn certificate() -> (X509, PKey<Private>) {
        let key = PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
        let mut builder = X509::builder().expect("a builder");
        builder.set_version(2).expect("version 3");
        builder.set_pubkey(&key).expect("its key");
        builder.set_not_before(&Asn1Time::days_from_now(0).expect("now")).expect("from now");
        builder.set_not_after(&Asn1Time::days_from_now(1).expect("tomorrow")).expect("to tomorrow");
        let names = SubjectAlternativeName::new()
            .dns("db.example.org")
            .dns("*.ring.example.org")
            .ip("10.0.0.7")
            .ip("fd00::7")
            .build(&builder.x509v3_context(None, None))
            .expect("names");
        builder.append_extension(names).expect("names");
        builder.sign(&key, MessageDigest::sha256()).expect("signed");
        (builder.build(), key)
    }

    #[test]
    fn a_certificate_must_name_a_contact_point() {
        let (certificate, _) = certificate();
        let named = |point: &str| names_one_of(&certificate, &["elsewhere".into(), host_of(point).into()]);
        for point in ["db.example.org", "DB.example.org:9142", "a.ring.example.org", "10.0.0.7:9042", "[fd00::7]:9042"]
        {
            assert!(named(point), "{point}");
        }
        for point in ["example.org", "a.b.ring.example.org", "ring.example.org", "10.0.0.8", "fd00::8"] {
            assert!(!named(point), "{point}");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let (certificate, key) = certificate();
        let certificate_file = dir.path().join("own.pem");
        let key_file = dir.path().join("own.key");
        let other_file = dir.path().join("other.key");
        std::fs::write(&certificate_file, certificate.to_pem().expect("PEM")).expect("written");
        std::fs::write(&key_file, key.private_key_to_pem_pkcs8().expect("PEM")).expect("written");
        let other = Rsa::generate(2048).and_then(|rsa| rsa.private_key_to_pem()).expect("PEM");
        std::fs::write(&other_file, other).expect("written");
        let text_file = dir.path().join("text");
        std::fs::write(&text_file, "no certificate").expect("written");

        let message = |tls: Tls| match context(&tls, &["localhost".into()]) {
            Ok(_) => String::from("fine"),
            Err(error) => error.to_string().replace(&dir.path().display().to_string(), "DIR"),
        };
        let own = |certificate: &Path, key: &Path| Tls {
            certificate: Some(certificate.into()),
            key: Some(key.into()),
            verify_hostname: true,
            ..Tls::default()
        };
        assert_eq!(message(Tls { ca: Some(certificate_file.clone()), ..own(&certificate_file, &key_file) }), "fine");
        let missing = message(Tls { ca: Some(dir.path().join("absent")), ..Tls::default() });
        assert!(missing.starts_with("cassandra.tls.ca: DIR/absent: No such file"), "{missing}");
        let no_pem = message(own(&text_file, &key_file));
        assert!(no_pem.starts_with("cassandra.tls.certificate: DIR/text: cannot be read as PEM"), "{no_pem}");
        let mixed = message(own(&certificate_file, &other_file));
        assert!(mixed.starts_with("cassandra.tls.key: DIR/other.key: "), "{mixed}");
        let half = message(Tls { certificate: Some(certificate_file), ..Tls::default() });
        assert_eq!(half, "cassandra.tls: `key` is missing, but `certificate: DIR/own.pem` is given");
    }
}
