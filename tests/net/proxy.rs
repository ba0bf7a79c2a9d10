//! A proxy that passes bytes on and knows whether a request is in flight: sent to the server, its answer not begun.
//!
//! It speaks no HTTP: what a client sends begins or goes on with a request, what the server sends answers it, since
//! clients of HTTP/1.1 that do not pipeline take turns with their server. Invariant: a connection that is open on one
//! side is open on the other, or both are about to be closed.

use parking_lot::Mutex;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// How requests begin that are no appends.
const METHODS: [&[u8]; 4] = [b"GET ", b"HEAD ", b"PUT ", b"DELETE "];

/// The proxy. Its threads end with the test's process.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What becomes of appends, or of other requests, on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Appends {
    /// They arrive, and so do their answers.
    #[default]
    Pass,
    /// The connection breaks before the server hears of them.
    Refused,
    /// They arrive, and the connection breaks instead of the answer.
    Unanswered,
}

#[derive(Debug, Default)]
struct Shared {
    /// Where the server is, while there is one.
    server: Mutex<Option<SocketAddr>>,
    in_flight: AtomicUsize,
    appends: Mutex<Appends>,
    /// What becomes of all other requests.
    others: Mutex<Appends>,
    reads: Mutex<Reads>,
}

/// Which reads are counted, and how many of them may pass.
#[derive(Debug, Default)]
struct Reads {
    /// What their first line holds.
    of: Option<String>,
    left: usize,
    passed: usize,
}

impl Reads {
    /// Whether what a client sends may pass.
    fn may_pass(&mut self, piece: &[u8]) -> bool {
        let Some(of) = self.of.as_deref().filter(|_| piece.starts_with(b"GET ")) else { return true };
        let line = piece.split(|b| *b == b'\r').next().unwrap_or_default();
        if !String::from_utf8_lossy(line).contains(of) {
            return true;
        }
        let may = self.left > 0;
        self.left -= usize::from(may);
        self.passed += usize::from(may);
        may
    }
}

impl Proxy {
    /// A proxy without a server: who connects is turned away.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has one");
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || shared.serve(client));
            }
        });
        Self { address, shared }
    }

    /// The address that devices are given.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same as a socket's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads to the server at `address` from now on, or to none.
    pub fn lead_to(&self, address: Option<SocketAddr>) {
        *self.shared.server.lock() = address;
    }

    /// What becomes of appends from now on.
    pub fn let_appends(&self, become_of_them: Appends) {
        *self.shared.appends.lock() = become_of_them;
    }

    /// What becomes of appends and of all other requests from now on.
    pub fn let_requests(&self, become_of_them: Appends) {
        self.let_appends(become_of_them);
        *self.shared.others.lock() = become_of_them;
    }

    /// From now on `most` reads that name `of` pass, and the connection of any further one breaks before the server hears of
    /// it. Gives how many passed since the last time.
    pub fn let_reads(&self, of: &str, most: usize) -> usize {
        let reads = Reads { of: Some(of.to_owned()), left: most, passed: 0 };
        std::mem::replace(&mut *self.shared.reads.lock(), reads).passed
    }

    /// Requests in flight at this moment.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(self: Arc<Self>, client: TcpStream) {
        let Some(address) = *self.server.lock() else { return };
        let Ok(server) = TcpStream::connect(address) else { return };
        let (Ok(from_client), Ok(to_client)) = (client.try_clone(), client.try_clone()) else { return };
        let (Ok(from_server), Ok(to_server)) = (server.try_clone(), server.try_clone()) else { return };
        for stream in [&client, &server] {
            // What is small is passed on at once, as it came.
            let _ = stream.set_nodelay(true);
        }
        let waiting = Arc::new(Mutex::new(false));
        // Set before the server hears of the append whose answer it is about.
        let answer_is_lost = Arc::new(AtomicBool::new(false));
        let (of_answers, this, is_lost) = (Arc::clone(&waiting), Arc::clone(&self), Arc::clone(&answer_is_lost));
        let answers = thread::spawn(move || {
            pass(from_server, to_client, |_| {
                this.note(&of_answers, false);
                !is_lost.load(Ordering::SeqCst)
            });
        });
        pass(from_client, to_server, |piece| {
            self.note(&waiting, true);
            let becomes = self.becomes_of(piece);
            answer_is_lost.fetch_or(becomes == Appends::Unanswered, Ordering::SeqCst);
            becomes != Appends::Refused && self.reads.lock().may_pass(piece)
        });
        // A thread that panicked has said so already.
        let _ = answers.join();
        self.note(&waiting, false);
    }

    /// What becomes of what a client sends, where that is the beginning of a request.
    fn becomes_of(&self, piece: &[u8]) -> Appends {
        if piece.starts_with(b"POST ") {
            *self.appends.lock()
        } else if METHODS.iter().any(|method| piece.starts_with(method)) {
            *self.others.lock()
        } else {
            Appends::Pass
        }
    }

    /// A connection waits for an answer from now on, or does so no longer.
    fn note(&self, waiting: &Mutex<bool>, now: bool) {
        let mut waiting = waiting.lock();
        if *waiting != now {
            *waiting = now;
            if now {
                self.in_flight.fetch_add(1, Ordering::SeqCst);
            } else {
                self.in_flight.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// Passes on what comes, telling of each piece before it is sent, until either side is closed or a piece is not to be sent;
/// then closes both.
fn pass(mut from: TcpStream, mut to: TcpStream, may_pass: impl Fn(&[u8]) -> bool) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        if !may_pass(&buf[..len]) || to.write_all(&buf[..len]).is_err() {
            break;
        }
    }
    for stream in [&from, &to] {
        // It may be closed already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
