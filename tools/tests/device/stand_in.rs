//! A stand-in for the server, in memory, that speaks as much of the protocol as a device uses and can be told to fail:
//! to break a connection before or after it has done what was asked, to be busy, to lose its newest history.
//!
//! It is no second implementation of everlogd: it checks nothing that a device has no part in. Invariant: what it has
//! accepted is in `World`, where tests look at it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// What becomes of a request instead of its answer.
pub enum Fault {
    None,
    /// The connection breaks before anything was done.
    Before,
    /// The connection breaks after it was done.
    After,
    Status(u16),
    Damaged,
    /// Something else is answered, with status 200.
    Answer(Vec<(String, String)>, Vec<u8>),
}

pub struct Request {
    pub method: String,
    pub path: String,
    query: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// An answer under way: status, headers, body.
type Answer = (u16, Vec<(String, String)>, Vec<u8>);
type Hook = Box<dyn FnMut(&mut World, &Request) -> Fault + Send>;

#[derive(Default)]
pub struct Stream {
    content_type: String,
    pub closed: bool,
    /// Each with the timeline that it was written in.
    pub records: Vec<(u64, Vec<u8>)>,
    /// Next number and the last body, by producer.
    producers: HashMap<String, (u64, Vec<u8>)>,
}

pub struct World {
    pub store: String,
    timeline: u64,
    pub streams: HashMap<String, Stream>,
    pub page_records: usize,
    /// Whether what was lost is taken back on purpose.
    pub on_purpose: bool,
    /// As many records of each stream are in a cold store; None: there is none.
    pub cold: Option<usize>,
    pub requests: u64,
}

pub struct StandIn {
    address: SocketAddr,
    shared: Arc<(Mutex<World>, Mutex<Option<Hook>>)>,
}

impl StandIn {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (store, streams) = ("store-1".to_owned(), HashMap::new());
        let world = World { store, timeline: 1, streams, page_records: 3, on_purpose: false, cold: None, requests: 0 };
        let shared = Arc::new((Mutex::new(world), Mutex::new(None)));
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                thread::spawn(move || serve(&connection, &shared));
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.0.lock().expect("no holder panics")
    }

    /// Asked before each request from now on.
    pub fn hook(&self, hook: impl FnMut(&mut World, &Request) -> Fault + Send + 'static) {
        *self.shared.1.lock().expect("no holder panics") = Some(Box::new(hook));
    }

    pub fn unhook(&self) {
        *self.shared.1.lock().expect("no holder panics") = None;
    }
}

impl World {
    /// The changes in a collection of alice's, as text.
    pub fn changes(&self, collection: &str) -> Vec<String> {
        let stream = self.streams.get(&format!("users/alice/{collection}"));
        let records = stream.iter().flat_map(|stream| &stream.records);
        records.map(|(_, bytes)| String::from_utf8(bytes.clone()).expect("JSON is text")).collect()
    }

    /// Appends as another device would.
    pub fn inject(&mut self, collection: &str, record: &str) {
        let timeline = self.timeline;
        let stream = self.streams.entry(format!("users/alice/{collection}")).or_default();
        stream.content_type = "application/json".into();
        stream.records.push((timeline, record.as_bytes().to_vec()));
    }

    /// A photo's stream that holds anything, complete and closed.
    pub fn put_photo(&mut self, hash: &str, bytes: &[u8]) {
        let records = vec![(self.timeline, bytes.to_vec())];
        let stream = Stream { closed: true, records, ..Stream::default() };
        self.streams.insert(format!("users/alice/photos/{hash}"), stream);
    }

    /// As a restore does that lost all but the first records.
    pub fn rewind(&mut self, collection: &str, keep: usize) {
        self.timeline += 1;
        self.forget(collection, keep);
    }

    /// The same, but without noticing it.
    pub fn forget(&mut self, collection: &str, keep: usize) {
        let stream = self.streams.get_mut(&format!("users/alice/{collection}")).expect("it is there");
        stream.records.truncate(keep);
        stream.producers.clear();
    }

    fn offset(stream: &Stream, seq: usize) -> String {
        let timeline = if seq == 0 { 0 } else { stream.records[seq - 1].0 };
        format!("{timeline:016x}_{seq:016x}")
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let (status, mut headers, body) = match request.method.as_str() {
            "PUT" => self.put(request),
            "POST" => self.post(request),
            _ => self.get(request),
        };
        headers.push(("Everlog-Store".into(), self.store.clone()));
        (status, headers, body)
    }

    fn put(&mut self, request: &Request) -> Answer {
        let closed = request.is_set("stream-closed");
        if let Some(stream) = self.streams.get(&request.path) {
            if stream.closed == closed {
                return (200, Vec::new(), Vec::new());
            }
            let headers = if stream.closed { vec![flag("Stream-Closed")] } else { Vec::new() };
            return (409, headers, Vec::new());
        }
        let content_type = request.headers.get("content-type").cloned().unwrap_or_default();
        let stream = Stream { content_type, closed, ..Stream::default() };
        self.streams.insert(request.path.clone(), stream);
        (201, Vec::new(), Vec::new())
    }

    fn post(&mut self, request: &Request) -> Answer {
        let timeline = self.timeline;
        let Some(stream) = self.streams.get_mut(&request.path) else { return (404, Vec::new(), Vec::new()) };
        let tail = World::offset(stream, stream.records.len());
        let mut headers =
            vec![("Stream-Next-Offset".into(), tail.clone()), ("Everlog-Durability".into(), "local".into())];
        let producer = request.headers.get("producer-id").cloned().unwrap_or_default();
        let number: u64 = request.headers.get("producer-seq").and_then(|n| n.parse().ok()).unwrap_or(0);
        if let Some((next, last)) = stream.producers.get(&producer).filter(|(next, _)| number < *next) {
            if number + 1 == *next && *last != request.body {
                headers.push(("Everlog-Error".into(), "producer-conflict".into()));
                return (409, headers, Vec::new());
            }
            headers.push(("Producer-Seq".into(), (next - 1).to_string()));
            if stream.closed {
                headers.push(flag("Stream-Closed"));
            }
            return (204, headers, Vec::new());
        }
        let next = stream.producers.get(&producer).map_or(0, |(next, _)| *next);
        if number > next {
            headers.push(("Producer-Expected-Seq".into(), next.to_string()));
            return (409, headers, Vec::new());
        }
        if stream.closed {
            headers.push(flag("Stream-Closed"));
            return (409, headers, Vec::new());
        }
        if request.headers.get("everlog-expect-offset").is_some_and(|expect| *expect != tail) {
            return (412, headers, Vec::new());
        }
        stream.producers.insert(producer, (number + 1, request.body.clone()));
        if stream.content_type == "application/json" {
            let elements: Vec<serde_json::Value> = serde_json::from_slice(&request.body).expect("a list");
            stream.records.extend(elements.iter().map(|element| (timeline, element.to_string().into_bytes())));
        } else {
            stream.records.push((timeline, request.body.clone()));
        }
        stream.closed |= request.is_set("stream-closed");
        headers[0].1 = World::offset(stream, stream.records.len());
        (200, headers, Vec::new())
    }

    fn get(&self, request: &Request) -> Answer {
        let offset = request.query.strip_prefix("offset=").unwrap_or("-1");
        let cause = ("Everlog-Timeline-Cause".into(), if self.on_purpose { "rewind" } else { "heal" }.into());
        let Some(stream) = self.streams.get(&request.path) else {
            let is_rewind = self.on_purpose && offset != "-1";
            return (404, if is_rewind { vec![cause] } else { Vec::new() }, Vec::new());
        };
        let mut headers = Vec::new();
        if let Some(cold) = self.cold {
            let offset = World::offset(stream, cold.min(stream.records.len()));
            headers.push(("Everlog-Cold-Offset".into(), offset));
        }
        let from = if offset == "-1" {
            0
        } else {
            let (timeline, seq) = offset.split_once('_').expect("an offset");
            let timeline = u64::from_str_radix(timeline, 16).expect("an offset");
            let seq = usize::from_str_radix(seq, 16).expect("an offset");
            if seq > stream.records.len() || World::offset(stream, seq) != offset {
                let kept = stream.records.iter().take(seq).take_while(|(t, _)| *t <= timeline).count();
                headers.push(("Everlog-Error".into(), "timeline".into()));
                headers.push(("Everlog-Cut".into(), World::offset(stream, kept)));
                headers.push(cause);
                return (410, headers, Vec::new());
            }
            seq
        };
        let to = stream.records.len().min(from + self.page_records);
        headers.push(("Stream-Next-Offset".into(), World::offset(stream, to)));
        if to == stream.records.len() {
            headers.push(flag("Stream-Up-To-Date"));
            if stream.closed {
                headers.push(flag("Stream-Closed"));
            }
        }
        let records: Vec<&[u8]> = stream.records[from..to].iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let body = if stream.content_type == "application/json" {
            [b"[".as_slice(), &records.join(&b","[..]), b"]"].concat()
        } else {
            records.concat()
        };
        (200, headers, body)
    }
}

impl Request {
    fn is_set(&self, header: &str) -> bool {
        self.headers.get(header).is_some_and(|value| value == "true")
    }

    fn read(from: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        from.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let mut words = line.split_whitespace();
        let method = words.next()?.to_owned();
        let target = words.next()?.strip_prefix("/v1/stream/")?.to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            from.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        from.read_exact(&mut body).ok()?;
        Some(Self { method, path: path.to_owned(), query: query.to_owned(), headers, body })
    }
}

fn flag(name: &str) -> (String, String) {
    (name.to_owned(), "true".to_owned())
}

fn serve(connection: &TcpStream, shared: &(Mutex<World>, Mutex<Option<Hook>>)) {
    let mut reader = BufReader::new(connection);
    while let Some(request) = Request::read(&mut reader) {
        let mut world = shared.0.lock().expect("no holder panics");
        world.requests += 1;
        let fault = match shared.1.lock().expect("no holder panics").as_mut() {
            Some(hook) => hook(&mut world, &request),
            None => Fault::None,
        };
        let store = ("Everlog-Store".to_owned(), world.store.clone());
        let (status, headers, body) = match fault {
            Fault::None => world.answer(&request),
            Fault::Before => return,
            Fault::After => {
                world.answer(&request);
                return;
            }
            Fault::Status(status) => (status, vec![store], Vec::new()),
            Fault::Answer(headers, body) => (200, [vec![store], headers].concat(), body),
            Fault::Damaged => (500, vec![store, ("Everlog-Error".to_owned(), "damaged".to_owned())], Vec::new()),
        };
        drop(world);
        let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str("\r\n");
        let body = if request.method == "HEAD" || status == 204 { &[][..] } else { &body };
        if (&*connection).write_all(&[head.as_bytes(), body].concat()).is_err() {
            return;
        }
    }
}
