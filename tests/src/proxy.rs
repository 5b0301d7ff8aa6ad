//! A TCP proxy that a test owns, with faults.
//!
//! In: the address of a service, and faults on request. Out: an address before it. Knows no protocol: it sees bytes, cuts
//! connections, holds answers back, swallows them, lets little through, or takes nothing at all; and it counts what it
//! did, so that a test knows whether a fault met anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is read at once where nothing is throttled.
const CHUNK_BYTES: usize = 64 << 10;

/// A TCP proxy in front of a service. Ends with this value.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

/// How often a fault met somebody, since the proxy began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// Connections that were cut.
    pub cut: u64,
    /// Answers that were held back.
    pub delayed: u64,
    /// Pieces of a stream that had to wait for their turn.
    pub throttled: u64,
}

struct Shared {
    upstream: String,
    /// Each rise cuts every connection.
    cuts: watch::Sender<u64>,
    /// Refuses new connections.
    closed: AtomicBool,
    /// Swallows answers.
    mute: AtomicBool,
    /// Takes nothing from clients: what they send stays with them.
    stalled: watch::Sender<bool>,
    /// Holds each answer back.
    delay_ms: AtomicU64,
    /// Lets so many bytes through each second, each way of each connection; 0 does not count them.
    bytes_per_s: AtomicU64,
    cut: AtomicU64,
    delayed: AtomicU64,
    throttled: AtomicU64,
}

impl Proxy {
    /// A proxy in front of `host:port`, on the same host. The service need not be there yet.
    ///
    /// # Panics
    /// Where the system has no port for it.
    pub async fn start(upstream: &str) -> Self {
        let host = upstream.rsplit_once(':').map_or(upstream, |(host, _)| host);
        let listener = TcpListener::bind((host, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            cuts: watch::channel(0).0,
            closed: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            stalled: watch::channel(false).0,
            delay_ms: AtomicU64::new(0),
            bytes_per_s: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
        });
        let for_accepting = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&for_accepting);
                if !shared.closed.load(Ordering::SeqCst) {
                    tokio::spawn(relay(client, shared));
                }
            }
        });
        Self { address, shared, accepting }
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts every connection and takes no new ones, or takes them again.
    pub fn set_closed(&self, closed: bool) {
        self.shared.closed.store(closed, Ordering::SeqCst);
        if closed {
            self.cut();
        }
    }

    /// Swallows answers, or lets them through again.
    pub fn set_mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::SeqCst);
    }

    /// Takes nothing from clients any more, without a word.
    pub fn stall(&self) {
        self.shared.stalled.send_replace(true);
    }

    /// Holds answers back by this long.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Lets so many bytes through each second, each way of each connection; 0 lets all through.
    pub fn set_throttle(&self, bytes_per_s: u64) {
        self.shared.bytes_per_s.store(bytes_per_s, Ordering::SeqCst);
    }

    /// Whom faults have met.
    #[must_use]
    pub fn met(&self) -> Met {
        let count = |of: &AtomicU64| of.load(Ordering::SeqCst);
        Met {
            cut: count(&self.shared.cut),
            delayed: count(&self.shared.delayed),
            throttled: count(&self.shared.throttled),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Shared {
    /// How much may be read at once, and how long it then takes.
    fn pace(&self) -> Option<(usize, u64)> {
        let bytes_per_s = self.bytes_per_s.load(Ordering::SeqCst);
        (bytes_per_s > 0).then(|| ((bytes_per_s as usize / 10).clamp(1, CHUNK_BYTES), bytes_per_s))
    }

    /// The next bytes of a stream, at the pace that holds. None at its end.
    async fn read(&self, from: &mut OwnedReadHalf, buffer: &mut [u8]) -> Option<usize> {
        let pace = self.pace();
        let most = pace.map_or(buffer.len(), |(most, _)| most);
        let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else { return None };
        if let Some((_, bytes_per_s)) = pace {
            self.throttled.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_micros(count as u64 * 1_000_000 / bytes_per_s)).await;
        }
        Some(count)
    }
}

async fn relay(client: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let Ok(server) = TcpStream::connect(&shared.upstream).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, &shared) => {}
        () = answers(from_server, to_client, &shared) => {}
        _ = cuts.changed() => {
            shared.cut.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) {
    let mut stalled = shared.stalled.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    while stalled.wait_for(|is_stalled| !is_stalled).await.is_ok() {
        let Some(count) = shared.read(&mut from, &mut buffer).await else { return };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Answers, each held back by the delay of the moment in which it came: later ones do not wait for it twice.
async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) {
    let (held, mut release) = tokio::sync::mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    let read = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Some(count) = shared.read(&mut from, &mut buffer).await {
            if !shared.mute.load(Ordering::SeqCst) {
                let delay = Duration::from_millis(shared.delay_ms.load(Ordering::SeqCst));
                shared.delayed.fetch_add(u64::from(!delay.is_zero()), Ordering::SeqCst);
                let _ = held.send((tokio::time::Instant::now() + delay, buffer[..count].to_vec()));
            }
        }
    };
    let write = async {
        while let Some((at, bytes)) = release.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
