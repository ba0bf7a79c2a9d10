//! A server that is lost and comes back from its cold store as it was earlier, and the devices that had gone on meanwhile:
//! all as real processes, the devices' ways drawn from seeds.
//!
//! Healed, the server and all devices have everything again, each thing once. Taken back on purpose, they have what there was
//! then, and what was newer lies aside on each device. Invariant: what a user wrote and did not delete is in a folder at the
//! end.

use everlog_tests::folders::{files, fixtures};
use everlog_tests::net::{Appends, COLLECTIONS, Device, Proxy, Server, ask, told};
use everlog_tests::programs::{Program, target_dir};
use everlog_tests::sim::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEVICES: usize = 3;
/// As many fixtures of each collection.
const FIXTURES: usize = 9;
/// How long everything may take to be in the cold store.
const PATIENCE: Duration = Duration::from_secs(60);

type Items = BTreeMap<String, Vec<u8>>;

/// A server that ships, three devices of one user, and what that user did.
struct World {
    scratch: TempDir,
    proxy: Proxy,
    server: Option<Server>,
    random: Rng,
    devices: Vec<Device>,
    /// What was in every folder before the devices went on.
    before: Items,
    /// What was written of each item since, in this order; None: it was deleted.
    written: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    count: u32,
}

impl World {
    /// All devices have the same, and the server's cold store has it too.
    fn new(seed: u64) -> Self {
        let scratch = tempfile::Builder::new().prefix("restored").tempdir_in(target_dir()).expect("room for a folder");
        let (proxy, random) = (Proxy::start(), Rng::new(seed));
        let (before, written) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self { scratch, proxy, server: None, random, devices: Vec::new(), before, written, count: 0 };
        world.start("store", "cold");
        world.devices = (0..DEVICES).map(|n| world.device(&format!("device-{n}"))).collect();
        for collection in COLLECTIONS {
            let mut found: Vec<_> = files(&fixtures().join(collection)).into_iter().take(FIXTURES).collect();
            let photo = found[0].1.clone();
            let more = (found.len()..FIXTURES).map(|n| (format!("more-{n}.jpg"), [&photo[..], &[n as u8]].concat()));
            found.extend(more.collect::<Vec<_>>());
            found.iter().for_each(|(name, content)| world.devices[0].write(&format!("{collection}/{name}"), content));
        }
        world.before = world.devices[0].items();
        world.devices.iter().for_each(Device::sync);
        world.until_cold();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn cold_url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    fn start(&mut self, data: &str, cold: &str) {
        let flags = ["--cold", &self.cold_url(cold), "--allow-dependent-cold"];
        let server = Server::start(&self.path(data), &flags);
        self.proxy.lead_to(Some(server.address()));
        self.server = Some(server);
    }

    /// The machine is gone, and its disk with it.
    fn lose(&mut self) {
        self.proxy.lead_to(None);
        self.server.take().expect("it runs").kill();
        fs::remove_dir_all(self.path("store")).expect("it was there");
    }

    /// Another machine takes over what a cold store has.
    fn restore(&mut self, cold: &str, how: &[&str]) {
        let mut restore = Command::new(Program::Everlog.path());
        restore.args(["restore", "--cold", &self.cold_url(cold), "--to"]).arg(self.path("restored")).args(how);
        let output = restore.output().expect("everlog starts");
        assert!(output.status.success(), "{}", told(&output));
        self.start("restored", cold);
    }

    fn device(&self, name: &str) -> Device {
        Device::init(self.path(name), &self.proxy.url(), "alice")
    }

    fn head(&self, collection: &str) -> everlog_tests::net::Answer {
        let address = self.server.as_ref().expect("it runs").address();
        ask(address, "HEAD", &format!("/v1/stream/users/alice/{collection}"), &[], b"")
    }

    fn until_cold(&self) {
        let began = Instant::now();
        for collection in COLLECTIONS {
            loop {
                let head = self.head(collection);
                if head.header("everlog-cold-offset") == head.header("stream-next-offset") {
                    break;
                }
                assert!(began.elapsed() < PATIENCE, "{collection} does not become cold: {head:?}\n{}", self.standing());
                std::thread::yield_now();
            }
        }
    }

    /// What the store that is served says of itself, and what its cold store has.
    fn standing(&self) -> String {
        let admin = self.server.as_ref().expect("it runs").admin_address();
        let mut all = ask(admin, "GET", "/status", &[], b"").text();
        for name in ["store", "restored"].into_iter().filter(|name| self.path(name).exists()) {
            let mut inspect = Command::new(Program::Everlog.path());
            all += &told(&inspect.arg("inspect").arg(self.path(name)).output().expect("everlog starts"));
        }
        all + &told(&Command::new("find").arg(self.path("cold")).arg("-type").arg("f").output().expect("find starts"))
    }

    /// The LSN of the newest entry.
    fn end_lsn(&self) -> u64 {
        let mut inspect = Command::new(Program::Everlog.path());
        let output = inspect.arg("inspect").arg(self.path("store")).arg("--json").output().expect("everlog starts");
        assert!(output.status.success(), "{}", told(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        report["end_lsn"].as_u64().expect("a number")
    }

    /// All messages of a collection.
    fn messages(&self, collection: &str) -> Vec<serde_json::Value> {
        let address = self.server.as_ref().expect("it runs").address();
        let (mut messages, mut offset) = (Vec::new(), "-1".to_owned());
        loop {
            let path = format!("/v1/stream/users/alice/{collection}?offset={offset}");
            let answer = ask(address, "GET", &path, &[], b"");
            assert_eq!(answer.status, 200, "{}", answer.text());
            let page: Vec<serde_json::Value> = serde_json::from_slice(&answer.body).expect("an array");
            messages.extend(page);
            if answer.header("stream-up-to-date") == "true" {
                return messages;
            }
            offset = answer.header("stream-next-offset").to_owned();
        }
    }

    /// How many messages each collection has.
    fn counts(&self) -> Vec<usize> {
        COLLECTIONS.iter().map(|collection| self.messages(collection).len()).collect()
    }

    /// A user writes something that nobody wrote before.
    fn write(&mut self, device: usize, name: String) {
        self.count += 1;
        let mut content = format!("{name} as of change {}\u{0}", self.count).into_bytes();
        content.resize(content.len() + self.random.below(5_000) as usize, 0xff);
        self.devices[device].write(&name, &content);
        self.written.entry(name).or_default().push(Some(content));
    }

    fn add(&mut self, device: usize, collection: &str) {
        let ending = match collection {
            "contacts" => "vcf",
            "calendar" | "todos" => "ics",
            _ => "bin",
        };
        self.count += 1;
        self.write(device, format!("{collection}/new-{}-by-{device}.{ending}", self.count));
    }

    /// Edits or deletes an item that no other device touches, or adds one. What was edited is not deleted.
    fn change(&mut self, device: usize) {
        let own: Vec<String> = self.before.keys().skip(device).step_by(DEVICES).cloned().collect();
        let name = self.random.pick(&own).clone();
        match (
            self.random.below(3),
            self.written.get(&name).map(|versions| versions.last().is_some_and(Option::is_some)),
        ) {
            (0, None) => {
                self.devices[device].remove(&name);
                self.written.insert(name, vec![None]);
            }
            (1, None | Some(true)) => self.write(device, name),
            _ => {
                let collection = *self.random.pick(&COLLECTIONS);
                self.add(device, collection);
            }
        }
    }

    /// The devices go on for a while, some further than the others.
    fn go_on(&mut self) {
        for _ in 0..10 {
            let device = self.random.below(DEVICES as u64) as usize;
            for _ in 0..1 + self.random.below(4) {
                self.change(device);
            }
            if self.random.chance(70) {
                self.devices[device].sync();
            }
        }
        // Whatever was drawn: one device has something that is lost, and another one has heard of it.
        COLLECTIONS.iter().for_each(|collection| self.add(0, collection));
        self.devices[0].sync();
        self.devices[1].sync();
    }

    /// A sync whose appends do not come through leaves something in the outbox.
    fn leave_in_outbox(&mut self, device: usize, appends: Appends) {
        self.add(device, "contacts");
        self.proxy.let_appends(appends);
        self.devices[device].sync_in_vain();
        self.proxy.let_appends(Appends::Pass);
        assert!(self.devices[device].status()["collections"][0]["outbox"].as_u64() > Some(0));
        if appends == Appends::Unanswered && self.random.chance(50) {
            self.devices[(device + 1) % DEVICES].sync();
        }
    }

    /// The order in which the devices come back.
    fn order(&mut self) -> Vec<Device> {
        let mut left = self.devices.clone();
        (0..DEVICES).map(|_| left.swap_remove(self.random.below(left.len() as u64) as usize)).collect()
    }

    /// All folders hold the same, as does that of a device that was never there before.
    fn agreed(&self) -> Items {
        let fresh = self.device("fresh");
        fresh.sync();
        let items = fresh.items();
        for device in &self.devices {
            assert_eq!(device.items().keys().collect::<Vec<_>>(), items.keys().collect::<Vec<_>>());
            assert!(device.items() == items, "{}", device.dir().display());
        }
        items
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("there is room");
    for entry in fs::read_dir(from).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let to = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("there is room");
        }
    }
}

/// The item that a name is of, be it that of a second version.
fn item(name: &str) -> String {
    let Some((stem, rest)) = name.split_once(".conflict-") else { return name.to_owned() };
    format!("{stem}{}", rest.find('.').map_or("", |at| &rest[at..]))
}

/// Everything that users wrote last is there, nothing that they deleted, and nothing twice.
fn check(world: &World, found: &Items) {
    let of = |name: &str| found.iter().filter(move |(found, _)| item(found) == name).collect::<Vec<_>>();
    for (name, content) in world.before.iter().filter(|(name, _)| !world.written.contains_key(*name)) {
        assert!(of(name) == [(name, content)], "{name}, which nobody touched");
    }
    for (name, versions) in &world.written {
        let there = of(name);
        match versions.as_slice() {
            [None] => assert!(there.is_empty(), "{name} was deleted"),
            [Some(content)] => assert!(there == [(name, content)], "{name} was written once"),
            // A device that had heard of an earlier version alone cannot know that it is one: then both are kept.
            several => {
                let is = |content: &Vec<u8>| there.iter().any(|(_, found)| *found == content);
                assert!(several.last().and_then(Option::as_ref).is_some_and(is), "{name} as it was written last");
                let contents: BTreeSet<_> = there.iter().map(|(_, content)| *content).collect();
                assert_eq!(contents.len(), there.len(), "{name} twice");
                assert!(contents.iter().all(|content| several.contains(&Some((*content).clone()))), "{name}");
            }
        }
    }
    let strangers =
        |name: &&String| !world.before.contains_key(&item(name)) && !world.written.contains_key(&item(name));
    assert_eq!(found.keys().find(strangers), None, "what nobody wrote");
}

/// A read of what the lost server gave last is refused, with the reason.
fn check_told(world: &World, cause: &str) {
    let status = world.devices[0].status();
    let cursor = status["collections"][0]["cursor"].as_str().expect("it has synced").to_owned();
    let address = world.server.as_ref().expect("it runs").address();
    let answer = ask(address, "GET", &format!("/v1/stream/users/alice/contacts?offset={cursor}"), &[], b"");
    assert_eq!((answer.status, answer.header("everlog-error")), (410, "timeline"), "{}", answer.text());
    assert_eq!(answer.header("everlog-timeline-cause"), cause);
}

#[test]
fn a_server_restored_as_it_was_earlier_is_healed_by_its_devices() {
    for seed in 0..6 {
        eprintln!("seed {seed}");
        let mut world = World::new(seed);
        copy(&world.path("cold"), &world.path("copy"));
        world.go_on();
        let device = world.random.below(DEVICES as u64) as usize;
        match seed % 3 {
            0 => {}
            1 => world.leave_in_outbox(device, Appends::Refused),
            _ => world.leave_in_outbox(device, Appends::Unanswered),
        }
        world.lose();
        world.restore("copy", &[]);
        check_told(&world, "heal");
        let before = world.counts();

        // Each comes back, and then hears of the others.
        let order = world.order();
        for _ in 0..2 {
            order.iter().for_each(Device::sync);
        }
        check(&world, &world.agreed());
        for (collection, before) in COLLECTIONS.into_iter().zip(before) {
            let mut said = BTreeSet::new();
            for message in world.messages(collection).into_iter().skip(before) {
                let change = format!("{} {}", message["key"], message["value"]);
                assert!(said.insert(change.clone()), "{collection}: put back twice: {change:.200}");
            }
        }
        // Nothing is left to say, and what is put back becomes cold like anything else.
        let before = world.counts();
        order.iter().for_each(Device::sync);
        assert_eq!(world.counts(), before, "a sync without news appends nothing");
        world.until_cold();
        order.iter().for_each(Device::sync);
        assert!(order.iter().all(|device| device.status()["not_cold"] == 0));
    }
}

#[test]
fn a_server_taken_back_on_purpose_takes_its_devices_back_and_nothing_of_theirs_is_lost() {
    for seed in 0..3 {
        eprintln!("seed {seed}");
        let mut world = World::new(seed);
        world.go_on();
        world.devices.iter().chain(&world.devices[..2]).for_each(Device::sync);
        let (then, moment, before) = (world.devices[0].items(), world.end_lsn(), world.counts());
        world.go_on();
        world.devices.iter().for_each(Device::sync);
        (0..DEVICES).for_each(|device| world.change(device));
        if seed % 3 > 0 {
            let appends = if seed % 3 == 1 { Appends::Refused } else { Appends::Unanswered };
            world.leave_in_outbox(0, appends);
        }
        world.until_cold();
        world.lose();
        world.restore("cold", &["--as-of", &moment.to_string(), "--mode", "rewind"]);
        check_told(&world, "rewind");

        for device in world.order() {
            let newer = device.items();
            device.sync();
            assert!(device.items() == then, "{}", device.dir().display());
            let aside = files(&device.dir().join(".everlog/set-aside"));
            let aside: BTreeSet<(&str, &[u8])> =
                aside.iter().map(|(name, content)| (name.split_once('/').expect("a time").1, &content[..])).collect();
            let differs = newer.iter().filter(|(name, content)| then.get(*name) != Some(content));
            let expected: BTreeSet<(&str, &[u8])> = differs.map(|(name, content)| (&name[..], &content[..])).collect();
            assert!(aside == expected, "{}", device.dir().display());
            assert_eq!(device.status()["set_aside"], aside.len());
        }
        assert_eq!(world.counts(), before, "nothing is pushed");
        assert!(world.agreed() == then);
        // From there on they sync as ever.
        world.add(2, "notes");
        world.devices[2].sync();
        world.devices[..2].iter().for_each(Device::sync);
        assert!(world.devices.iter().all(|device| device.items() == world.devices[2].items()));
    }
}
