//! From the name of a host to a connection, past the judgement of its addresses.
//!
//! In: a URI whose host was granted. Out: a stream to one of its addresses, with TLS where the scheme says so. The name is
//! looked up once, each address is judged, and what was judged is what is connected to: a name that changes its mind in
//! between changes nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslMethod};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;
use tower_service::Service;

use super::Refused;
use super::address::judge;
use crate::config::HttpGrant;

/// How long an address is tried before the next one is tried beside it.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How names become addresses.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of a name.
    ///
    /// # Errors
    /// Where it has none, or nobody can say.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// As the system does it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Makes connections, for the client's pool.
#[derive(Clone)]
pub(super) struct Dial {
    grant: Arc<HttpGrant>,
    resolver: Arc<dyn Resolve>,
    tls: SslConnector,
}

impl Dial {
    pub(super) fn new(grant: Arc<HttpGrant>, resolver: Arc<dyn Resolve>) -> Result<Self, openssl::error::ErrorStack> {
        let mut tls = SslConnector::builder(SslMethod::tls_client())?;
        tls.set_alpn_protos(b"\x08http/1.1")?;
        Ok(Self { grant, resolver, tls: tls.build() })
    }

    async fn dial(self, uri: Uri) -> Result<Stream, Refused> {
        let nowhere = || Refused::Invalid("a URL without a host".to_owned());
        let host = uri.host().ok_or_else(nowhere)?;
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let addresses = self.judged(name).await?;
        let stream = connect(&addresses, port).await.map_err(|error| Refused::Connect(format!("{host}: {error}")))?;
        if !is_tls {
            return Ok(Stream(TokioIo::new(Box::new(stream))));
        }
        let no_tls = |error: String| Refused::Connect(format!("{host}: no TLS: {error}"));
        let configured = self.tls.configure().and_then(|tls| tls.into_ssl(name));
        let ssl = configured.map_err(|error| no_tls(error.to_string()))?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| no_tls(error.to_string()))?;
        Pin::new(&mut stream).connect().await.map_err(|error| no_tls(error.to_string()))?;
        Ok(Stream(TokioIo::new(Box::new(stream))))
    }

    /// The addresses of a host that may be connected to.
    async fn judged(&self, name: &str) -> Result<Vec<IpAddr>, Refused> {
        let addresses = match name.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self
                .resolver
                .resolve(name)
                .await
                .map_err(|error| Refused::Connect(format!("{name} has no address: {error}")))?,
        };
        let mut allowed = Vec::new();
        let mut refused = None;
        for address in addresses {
            match judge(address, &self.grant.private) {
                Ok(()) if allowed.contains(&address) => {}
                Ok(()) => allowed.push(address),
                Err(what) => refused = refused.or(Some((address, what))),
            }
        }
        allowed.truncate(ADDRESSES_MAX);
        match (allowed.is_empty(), refused) {
            (false, _) => Ok(allowed),
            (true, None) => Err(Refused::Connect(format!("{name} has no address"))),
            (true, Some((address, what))) => Err(Refused::Denied(format!(
                "{name} leads to {address}, which is {what}; where that is meant, the grant's `private:` names its range"
            ))),
        }
    }
}

/// The first of some addresses that answers; a later one has its try while an earlier one keeps silent.
async fn connect(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut tries = FuturesUnordered::new();
    for (&address, before) in addresses.iter().zip(0_u32..) {
        tries.push(async move {
            tokio::time::sleep(NEXT_ADDRESS_AFTER * before).await;
            TcpStream::connect(SocketAddr::new(address, port)).await
        });
    }
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address");
    while let Some(tried) = tries.next().await {
        match tried {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Service<Uri> for Dial {
    type Response = Stream;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<Stream, Refused>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// A connection, with or without TLS.
pub(super) struct Stream(TokioIo<Box<dyn Both>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
