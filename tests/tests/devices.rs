//! Devices, a server and all between them as real processes: the fixtures go through two devices, conflicts keep both
//! versions, and nothing is lost or doubled while server and devices are killed.
//!
//! Devices reach the server through a proxy, whose address outlives the server's. The moments of kills are drawn from a
//! seed, printed at the start; EVERLOG_KILL_SEED sets it. What this does not do: it kills processes and no machine.

use everlog_tests::folders::{files, fixtures};
use everlog_tests::net::{COLLECTIONS, Device, Proxy, Server, told};
use everlog_tests::programs::target_dir;
use everlog_tests::sim::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// Kills of the server with a request in flight.
const KILLS: usize = 40;
const PHOTO_BYTES: usize = 200 << 20;
/// Kills of either side during the upload of the photo.
const UPLOAD_KILLS: usize = 5;
/// After this long a test that waits for kills has failed.
const PATIENCE: Duration = Duration::from_secs(240);

fn seed() -> u64 {
    let seed = match std::env::var("EVERLOG_KILL_SEED") {
        Ok(seed) => seed.parse().expect("EVERLOG_KILL_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as u64,
    };
    eprintln!("EVERLOG_KILL_SEED={seed}");
    seed
}

/// A server that can be killed and comes back behind the same address.
struct World {
    scratch: TempDir,
    proxy: Proxy,
    server: Option<Server>,
}

impl World {
    fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("devices").tempdir_in(target_dir()).expect("room for a folder");
        let mut world = Self { scratch, proxy: Proxy::start(), server: None };
        world.start();
        world
    }

    fn start(&mut self) {
        let server = Server::start(&self.scratch.path().join("store"), &[]);
        self.proxy.lead_to(Some(server.address()));
        self.server = Some(server);
    }

    fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
        self.proxy.lead_to(None);
    }

    fn device(&self, name: &str) -> Device {
        Device::init(self.scratch.path().join(name), &self.proxy.url(), "alice")
    }

    /// The messages of a collection, as the server has them.
    fn messages(&self, collection: &str) -> Vec<serde_json::Value> {
        self.stream(&format!("users/alice/{collection}"))
    }

    /// All messages of a stream, page by page.
    fn stream(&self, name: &str) -> Vec<serde_json::Value> {
        let (mut messages, mut offset) = (Vec::new(), "-1".to_owned());
        loop {
            let url = format!("{}/v1/stream/{name}?offset={offset}", self.proxy.url());
            let mut answer = ureq::get(&url).call().expect("the stream is there");
            let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().expect("text").to_owned());
            let (next, done) = (header("stream-next-offset"), header("stream-up-to-date").is_some());
            let body = answer.body_mut().with_config().limit(64 << 20).read_to_vec().expect("a whole answer");
            let page: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("an array");
            messages.extend(page);
            if done {
                return messages;
            }
            offset = next.expect("every answer says where to go on");
        }
    }
}

fn put_fixtures(device: &Device) -> BTreeMap<String, Vec<u8>> {
    let mut corpus: BTreeMap<String, Vec<u8>> =
        files(&fixtures()).into_iter().filter(|(name, _)| name.contains('/')).collect();
    assert!(corpus.len() > 300, "the corpus is there: {}", corpus.len());
    // Enough photos to edit, delete and quarrel about.
    let photo = corpus.iter().find(|(name, _)| name.starts_with("photos/")).expect("there is one").1.clone();
    corpus.extend((0..4).map(|n| (format!("photos/more-{n}.jpg"), [&photo[..], &[n]].concat())));
    corpus.iter().for_each(|(name, content)| device.write(name, content));
    corpus
}

#[test]
fn the_fixtures_go_through_two_devices_and_conflicts_keep_both() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let corpus = put_fixtures(&a);
    assert_eq!(a.items(), corpus, "every fixture is an item");
    a.sync();
    b.sync();
    assert_eq!(a.items(), corpus);
    assert_eq!(b.items(), corpus, "byte for byte");

    b.reset();
    assert!(b.items().is_empty(), "it lost its battery");
    b.sync();
    assert_eq!(b.items(), corpus, "all is back");

    let of = |collection: &str, n: usize| {
        let mut names = corpus.keys().filter(|name| name.starts_with(collection));
        names.nth(n).expect("the fixtures have several").clone()
    };
    // One side edits, deletes and adds; the other follows.
    let mut expected = corpus.clone();
    for collection in COLLECTIONS {
        a.write(&of(collection, 0), format!("edited {collection}"));
        expected.insert(of(collection, 0), format!("edited {collection}").into_bytes());
        a.remove(&of(collection, 1));
        expected.remove(&of(collection, 1));
    }
    a.write("notes/\u{fc}ber alles \u{2014} 1%.md", b"added \xff\x00 as bytes");
    expected.insert("notes/\u{fc}ber alles \u{2014} 1%.md".into(), b"added \xff\x00 as bytes".to_vec());
    a.write("notes/empty", b"");
    expected.insert("notes/empty".into(), Vec::new());
    a.sync();
    b.sync();
    assert_eq!(a.items(), expected);
    assert_eq!(b.items(), expected);

    // Both sides edit the same item of each collection, and one edits what the other deletes, both ways round.
    for collection in COLLECTIONS {
        a.write(&of(collection, 2), format!("{collection} as A has it"));
        b.write(&of(collection, 2), format!("{collection} as B has it"));
        a.write(&of(collection, 3), "edited against a deletion");
        b.remove(&of(collection, 3));
        a.remove(&of(collection, 4));
        b.write(&of(collection, 4), "edited against a deletion");
    }
    a.sync();
    b.sync();
    a.sync();
    let (of_a, of_b) = (a.items(), b.items());
    assert_eq!(of_a, of_b, "they converge");
    for collection in COLLECTIONS {
        let contents: BTreeSet<&[u8]> =
            of_a.iter().filter(|(name, _)| name.starts_with(collection)).map(|(_, content)| &content[..]).collect();
        for side in ["A", "B"] {
            assert!(
                contents.contains(format!("{collection} as {side} has it").as_bytes()),
                "{collection}: {side}'s version"
            );
        }
        assert_eq!(of_a[&of(collection, 3)], b"edited against a deletion");
        assert_eq!(of_a[&of(collection, 4)], b"edited against a deletion");
    }
    assert_eq!(of_a.len(), expected.len() + COLLECTIONS.len(), "one more item for each conflict");
    // Nothing is left to say.
    let before: Vec<usize> = COLLECTIONS.iter().map(|collection| world.messages(collection).len()).collect();
    b.sync();
    a.sync();
    let after: Vec<usize> = COLLECTIONS.iter().map(|collection| world.messages(collection).len()).collect();
    assert_eq!(before, after, "a sync without news appends nothing");
    assert_eq!(a.items(), of_a);
}

/// Waits until something is in flight, and a random moment longer.
fn wait_for_flight(proxy: &Proxy, random: &mut Rng, until: Instant, most_us: u64) {
    while proxy.in_flight() == 0 {
        assert!(Instant::now() < until, "nothing is in flight any more");
        thread::yield_now();
    }
    thread::sleep(Duration::from_micros(random.below(most_us)));
}

#[test]
fn a_large_photo_arrives_intact_though_its_upload_is_killed_on_either_side() {
    let mut random = Rng::new(seed());
    let mut world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let photo = a.dir().join("photos/large.raw");
    write_noise(&photo, &mut random);
    let until = Instant::now() + PATIENCE;
    let (mut device_kills, mut server_kills) = (0, 0);
    while device_kills < UPLOAD_KILLS || server_kills < UPLOAD_KILLS {
        let mut sync = a.begin_sync();
        loop {
            if sync.try_wait().expect("it can be asked").is_some() {
                let output = sync.wait_with_output().expect("it ended");
                panic!("the upload ended after {device_kills} and {server_kills} kills: {}", told(&output));
            }
            // Some requests pass between two kills, so that each attempt gets further than the last.
            for _ in 0..random.below(12) {
                wait_for_flight(&world.proxy, &mut random, until, 4000);
            }
            if world.proxy.in_flight() == 0 {
                continue;
            }
            if server_kills <= device_kills && server_kills < UPLOAD_KILLS {
                world.kill();
                server_kills += 1;
                world.start();
            } else {
                sync.kill().expect("it runs");
                assert_eq!(sync.wait().expect("it ends").signal(), Some(9));
                device_kills += 1;
                break;
            }
        }
    }
    a.sync();
    b.sync();
    let hash = |path: &Path| {
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut fs::File::open(path).expect("the photo is there"), &mut hasher).expect("it can be read");
        hasher.finalize()
    };
    assert_eq!(fs::metadata(b.dir().join("photos/large.raw")).expect("it came").len(), PHOTO_BYTES as u64);
    assert_eq!(hash(&photo), hash(&b.dir().join("photos/large.raw")));
    eprintln!("{device_kills} kills of the device and {server_kills} of the server while the photo went up");
}

fn write_noise(path: &PathBuf, random: &mut Rng) {
    let mut file = std::io::BufWriter::new(fs::File::create(path).expect("the folder is there"));
    for _ in 0..PHOTO_BYTES / 8 {
        file.write_all(&random.draw().to_le_bytes()).expect("there is room");
    }
    file.flush().expect("there is room");
}

/// What a client that numbers its appends was told.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Writer {
    /// Appends 0, 1, 2 … to a stream of its own, each until it is acknowledged.
    fn start(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(10)))
                .build()
                .into();
            let mut number = 0;
            while !stopping.load(Ordering::SeqCst) {
                let create = agent.put(&url).header("content-type", "application/json").send_empty();
                let append = agent
                    .post(&url)
                    .header("content-type", "application/json")
                    .header("producer-id", "writer")
                    .header("producer-epoch", "0")
                    .header("producer-seq", number.to_string())
                    .send(format!("[{number}]"));
                if number == 0 && create.is_err() {
                    continue;
                }
                match append.map(|answer| answer.status().as_u16()) {
                    Ok(200 | 204) => number += 1,
                    Ok(404 | 503) | Err(_) => thread::sleep(Duration::from_millis(5)),
                    Ok(other) => panic!("an append was answered with {other}"),
                }
            }
            number
        });
        Self { stop, thread }
    }

    /// How many were acknowledged.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it was told nothing unexpected")
    }
}

/// A user who edits, deletes and adds items of one device, and has it sync; now and then the sync is killed.
struct User {
    device: Device,
    name: &'static str,
    random: Rng,
    /// What the folder holds of this user's own items.
    own: BTreeMap<String, Vec<u8>>,
    round: u32,
}

impl User {
    fn live(mut self, stop: &AtomicBool, kills: &AtomicUsize) -> BTreeMap<String, Vec<u8>> {
        let mut gave_up = false;
        while !stop.load(Ordering::SeqCst) {
            self.round += 1;
            for _ in 0..1 + self.random.below(6) {
                self.change();
            }
            let mut sync = self.device.begin_sync();
            if self.random.below(3) == 0 {
                thread::sleep(Duration::from_millis(self.random.below(60)));
                sync.kill().expect("it is not waited for yet");
                if sync.wait().expect("it ends").signal() == Some(9) {
                    kills.fetch_add(1, Ordering::SeqCst);
                }
                continue;
            }
            let output = sync.wait_with_output().expect("it ends");
            // Killed again and again, the server may be out of reach for as long as one sync tries, and not as long as two do.
            let is_out_of_reach = output.status.code() == Some(1) && told(&output).contains("could not be reached");
            let is_fine = output.status.success() || (is_out_of_reach && !gave_up);
            assert!(is_fine, "{}: {}", self.name, told(&output));
            gave_up = is_out_of_reach;
        }
        self.own
    }

    fn change(&mut self) {
        let collection = COLLECTIONS[self.random.below(5) as usize];
        let ending = match collection {
            "contacts" => "vcf",
            "calendar" | "todos" => "ics",
            _ => "bin",
        };
        let item = format!("{collection}/{}-{}.{ending}", self.name, self.random.below(8));
        if self.own.contains_key(&item) && self.random.below(4) == 0 {
            self.device.remove(&item);
            self.own.remove(&item);
        } else {
            let mut content = format!("{item} {}", self.round).into_bytes();
            content.resize(content.len() + self.random.below(20_000) as usize, b'.');
            self.device.write(&item, &content);
            self.own.insert(item, content);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_while_the_server_is_killed_forty_times() {
    let mut random = Rng::new(seed());
    let mut world = World::new();
    let url = format!("{}/v1/stream/writer", world.proxy.url());
    let writer = Writer::start(url.clone());
    let (stop, device_kills) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let devices = [world.device("a"), world.device("b")];
    let users: Vec<_> = devices
        .iter()
        .zip(["a", "b"])
        .map(|(device, name)| {
            let user =
                User { device: device.clone(), name, random: Rng::new(random.draw()), own: BTreeMap::new(), round: 0 };
            let (stop, kills) = (Arc::clone(&stop), Arc::clone(&device_kills));
            thread::spawn(move || user.live(&stop, &kills))
        })
        .collect();

    let until = Instant::now() + PATIENCE;
    let (mut kills, mut counted) = (0, 0);
    while counted < KILLS || device_kills.load(Ordering::SeqCst) < 5 {
        assert!(users.iter().all(|user| !user.is_finished()), "a user met what it did not expect");
        thread::sleep(Duration::from_millis(random.below(150)));
        wait_for_flight(&world.proxy, &mut random, until, 2000);
        counted += usize::from(world.proxy.in_flight() > 0);
        kills += 1;
        world.kill();
        world.start();
    }
    stop.store(true, Ordering::SeqCst);
    let mut expected = BTreeMap::new();
    for user in users {
        expected.extend(user.join().expect("it met nothing unexpected"));
    }
    let acknowledged = writer.finish();

    for device in [&devices[0], &devices[1], &devices[0]] {
        device.sync();
    }
    for device in &devices {
        assert_eq!(device.items().keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert_eq!(device.items(), expected, "the last thing each user did");
    }
    for collection in COLLECTIONS {
        let mut changes = BTreeMap::new();
        for (seq, mut message) in world.messages(collection).into_iter().enumerate() {
            message["value"]["data"] = message["value"]["data"].as_str().map(|data| data.trim_end_matches('.')).into();
            let id = (message["headers"]["txid"].to_string(), message["key"].to_string());
            let told = format!("{seq}: {message}");
            if let Some(other) = changes.insert(id, told.clone()) {
                panic!("{collection}: a change stands twice:\n{other}\n{told}");
            }
        }
    }
    let written: Vec<u64> = world.stream("writer").iter().map(|n| n.as_u64().expect("a number")).collect();
    let expected: Vec<u64> = (0..written.len() as u64).collect();
    assert_eq!(written, expected, "each once, in order");
    // The last one may have been stored without its answer having come.
    let last = written.len() as u64;
    assert!(acknowledged == last || acknowledged + 1 == last, "{acknowledged} acknowledged, {last} there");
    let of_devices = device_kills.load(Ordering::SeqCst);
    eprintln!(
        "{kills} kills of the server, {counted} with a request in flight; {of_devices} of devices; {last} appends"
    );
}
