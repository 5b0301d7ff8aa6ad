//! TLS and logins of the Cassandra connection.

use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::Pin;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::ssl::{Ssl, SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use pelton::cassandra::{CassandraError, connect};
use pelton::config::{Secret, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cassandra_support::{address, settings};

/// A certificate that signs itself, and its key, as PEM files.
pub(crate) fn certificate(dir: &Path, name: &str, host: &str) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    let mut names = SubjectAlternativeName::new();
    match host.parse::<Ipv4Addr>() {
        Ok(_) => names.ip(host),
        Err(_) => names.dns(host),
    };
    let names = names.build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), builder.build().to_pem().unwrap()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
}

/// Speaks TLS to the client and plain CQL to Cassandra; asks for a client's certificate where `trusted` names one.
async fn tls_proxy(dir: &Path, name: &str, trusted: Option<&str>) -> String {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate_file(dir.join(format!("{name}.pem")), SslFiletype::PEM).unwrap();
    acceptor.set_private_key_file(dir.join(format!("{name}.key")), SslFiletype::PEM).unwrap();
    if let Some(trusted) = trusted {
        acceptor.set_ca_file(dir.join(format!("{trusted}.pem"))).unwrap();
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let ssl = Ssl::new(acceptor.context()).unwrap();
            tokio::spawn(async move {
                let mut client = tokio_openssl::SslStream::new(ssl, client).unwrap();
                if Pin::new(&mut client).accept().await.is_ok()
                    && let Ok(mut server) = TcpStream::connect(address()).await
                {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    proxy
}

async fn connects(proxy: &str, tls: Tls) -> Result<(), String> {
    let mut settings = settings(proxy);
    settings.tls = Some(tls);
    connect(&settings).await.map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_what_it_is_told_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for (name, host) in [("node", "127.0.0.1"), ("elsewhere", "db.example.org"), ("own", "client")] {
        certificate(dir.path(), name, host);
    }
    let pem = |name: &str| Some(dir.path().join(format!("{name}.pem")));
    let trusting = |name: &str| Tls { ca: pem(name), verify_hostname: true, ..Tls::default() };
    let node = tls_proxy(dir.path(), "node", None).await;
    assert_eq!(connects(&node, trusting("node")).await, Ok(()));
    let stranger = connects(&node, trusting("elsewhere")).await.expect_err("an authority that did not sign it");
    assert!(stranger.contains("cannot be reached") && stranger.contains("certificate verify failed"), "{stranger}");
    connects(&node, Tls::default()).await.expect_err("the system's authorities did not sign it either");

    let elsewhere = tls_proxy(dir.path(), "elsewhere", None).await;
    connects(&elsewhere, trusting("elsewhere")).await.expect_err("it names another host");
    let any_name = Tls { ca: pem("elsewhere"), ..Tls::default() };
    assert_eq!(connects(&elsewhere, any_name).await, Ok(()));

    // By name: its certificate names the contact point, and not the address behind it.
    certificate(dir.path(), "named", "localhost");
    let named = tls_proxy(dir.path(), "named", None).await.replace("127.0.0.1", "localhost");
    assert_eq!(connects(&named, trusting("named")).await, Ok(()));

    let mutual = tls_proxy(dir.path(), "node", Some("own")).await;
    connects(&mutual, trusting("node")).await.expect_err("it wants a certificate of ours");
    let with_own = Tls { certificate: pem("own"), key: Some(dir.path().join("own.key")), ..trusting("node") };
    assert_eq!(connects(&mutual, with_own).await, Ok(()));
}

/// A node that asks for a login and takes none: the first frames of the protocol, and no more.
async fn strict_node() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(refuse_login(client));
        }
    });
    node
}

async fn refuse_login(mut client: TcpStream) {
    const ERROR: u8 = 0x00;
    const AUTHENTICATE: u8 = 0x03;
    const SUPPORTED: u8 = 0x06;
    loop {
        let mut header = [0; 9];
        if client.read_exact(&mut header).await.is_err() {
            return;
        }
        let [_, _, stream_high, stream_low, request, length @ ..] = header;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        if client.read_exact(&mut body).await.is_err() {
            return;
        }
        let text = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
        let (answer, body) = match request {
            0x05 => (SUPPORTED, 0_u16.to_be_bytes().to_vec()),
            0x01 => (AUTHENTICATE, text("org.apache.cassandra.auth.PasswordAuthenticator")),
            _ => (
                ERROR,
                [&0x0100_i32.to_be_bytes()[..], &text("Provided username me and/or password are incorrect")].concat(),
            ),
        };
        let header = [&[0x84, 0, stream_high, stream_low, answer][..], &(body.len() as u32).to_be_bytes()].concat();
        if client.write_all(&[header, body].concat()).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_is_named_and_not_tried_for_ever() {
    let node = strict_node().await;
    let mut settings = settings(&node);
    let nobody = connect(&settings).await.expect_err("it wants a login");
    assert!(matches!(nobody, CassandraError::Login { .. }), "{nobody:?}");
    assert!(nobody.to_string().contains("it wants a user name and a password"), "{nobody}");
    settings.username = Some("me".into());
    settings.password = Some(Secret::new("hunter2"));
    let wrong = connect(&settings).await.expect_err("it is the wrong password");
    assert!(matches!(wrong, CassandraError::Login { .. }) && !wrong.is_transient(), "{wrong:?}");
    let said = format!("{wrong} {wrong:?} {settings:?}");
    assert!(said.contains("Provided username me and/or password are incorrect"), "{said}");
    assert!(said.contains("see `username` and `password` under `cassandra`"), "{said}");
    assert!(!said.contains("hunter2"), "a password never shows");
}
