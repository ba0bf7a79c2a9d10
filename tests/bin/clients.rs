//! Clients that nobody here wrote, against an everlogd that is killed under them: the protocol's own for JavaScript and
//! Python, and its state client.
//!
//! The applications in tests/clients assert what they are told; this program starts them, does the harm, and compares
//! what the server then has, which it asks for itself. The clients reach the server through a proxy, whose address
//! stays while the server comes and goes. Invariant: harm is done where an application is known to be, never after some
//! time.
#![forbid(unsafe_code)]

use clap::Parser;
use everlog_tests::folders::{files, fixtures};
use everlog_tests::net::{Answer, Appends, Device, Proxy, Server, ask};
use everlog_tests::programs::target_dir;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const JSON: (&str, &str) = ("Content-Type", "application/json");
/// How long anything may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages that are followed between two kills of the server, and how often it is killed.
const LEG: u64 = 40;
const KILLS: u64 = 6;
/// Rounds of appends by a producer. Harm is done in most of them.
const ROUNDS: u64 = 8;

/// Runs the protocol's own clients against everlogd.
#[derive(Parser)]
#[command(name = "clients")]
struct Args {
    /// The folder of the applications, with the clients for JavaScript below it
    #[arg(long)]
    applications: PathBuf,
    /// The Python that has the client for Python
    #[arg(long)]
    python: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Language {
    JavaScript,
    Python,
}

use Language::{JavaScript, Python};

type Case = fn(&mut World);

fn main() {
    let mut world = World::new(Args::parse());
    let cases: [(&str, Case); 5] = [
        ("creations, appends and reads, JavaScript", |world| world.app(JavaScript, "basics", &[]).done()),
        ("creations, appends and reads, Python", |world| world.app(Python, "basics", &[]).done()),
        ("four readers while the server is killed", tail),
        ("a producer whose answers are lost", produce),
        ("a folder of contacts, folded", contacts),
    ];
    for (name, case) in cases {
        let began = Instant::now();
        case(&mut world);
        eprintln!("{name}: passed in {:.1} s", began.elapsed().as_secs_f64());
    }
}

/// A server behind an address that stays.
struct World {
    args: Args,
    scratch: TempDir,
    proxy: Proxy,
    server: Option<Server>,
}

impl World {
    fn new(args: Args) -> Self {
        let scratch = tempfile::Builder::new().prefix("clients").tempdir_in(target_dir()).expect("room for a folder");
        // Live reads end often enough that clients connect again for that reason as well.
        let settings = "long_poll_ms = 500\nsse_ms = 1000\n";
        std::fs::write(scratch.path().join("everlog.toml"), settings).expect("a new file");
        let mut world = Self { args, scratch, proxy: Proxy::start(), server: None };
        world.start();
        world
    }

    fn start(&mut self) {
        let server = Server::start(&self.scratch.path().join("store"), &[]);
        self.proxy.lead_to(Some(server.address()));
        self.server = Some(server);
    }

    /// Kills the server and starts it again, on the same store.
    fn restart(&mut self) {
        self.proxy.lead_to(None);
        self.server.take().expect("it runs").kill();
        self.start();
    }

    /// Asks the server itself.
    fn ask(&self, method: &str, name: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let server = self.server.as_ref().expect("it runs");
        ask(server.address(), method, &format!("/v1/stream/{name}"), headers, body)
    }

    /// Comes back once a stream is as wanted.
    fn until(&self, name: &str, is_wanted: impl Fn(&Answer) -> bool) {
        let began = Instant::now();
        while !is_wanted(&self.ask("HEAD", name, &[], b"")) {
            assert!(began.elapsed() < PATIENCE, "{name} does not become what it should");
            thread::yield_now();
        }
    }

    fn end(&self, name: &str) -> String {
        self.ask("HEAD", name, &[], b"").header("stream-next-offset").to_owned()
    }

    /// Starts an application.
    fn app(&self, language: Language, case: &str, args: &[&str]) -> App {
        let mut command = match language {
            JavaScript => Command::new("node"),
            Python => Command::new(&self.args.python),
        };
        let file = match language {
            JavaScript => "client.mjs",
            Python => "client.py",
        };
        command.arg(self.args.applications.join(file)).arg(case).arg(format!("{}/v1/stream", self.proxy.url()));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let input = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            // It is read to its end whether somebody listens or not, so that the application never waits.
            output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        App { name: format!("{case}, {language:?} {args:?}"), process, input, lines }
    }
}

/// An application that runs. Dropped, it is killed.
struct App {
    name: String,
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl App {
    /// Comes back once it prints this next.
    fn says(&self, expected: &str) {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|e| panic!("{}: {expected:?} was expected: {e}", self.name));
        assert_eq!(line, expected, "{}", self.name);
    }

    /// Lets it go on.
    fn go(&mut self) {
        self.input.write_all(b"go\n").expect("it waits for that");
    }

    /// Waits for its end; it has nothing more to say.
    fn done(mut self) {
        let more = self.lines.recv_timeout(PATIENCE);
        assert_eq!(more, Err(RecvTimeoutError::Disconnected), "{} should have ended", self.name);
        let status = self.process.wait().expect("it is ours");
        assert!(status.success(), "{}: {status}", self.name);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Readers of both languages and both kinds follow a stream, and see each message once, in order.
fn tail(world: &mut World) {
    assert_eq!(world.ask("PUT", "tail", &[JSON], b"").status, 201);
    let count = ((KILLS + 1) * LEG).to_string();
    let readers: Vec<App> = [(JavaScript, "long-poll"), (JavaScript, "sse"), (Python, "long-poll"), (Python, "sse")]
        .into_iter()
        .map(|(language, live)| world.app(language, "tail", &[live, &count]))
        .collect();
    for leg in 0..=KILLS {
        let numbers = leg * LEG..(leg + 1) * LEG;
        for n in numbers.clone() {
            // Of a size that the kernel does not pass on in one piece for long.
            let text = "x".repeat(if n % 7 == 0 { 50_000 } else { 100 });
            assert_eq!(
                world.ask("POST", "tail", &[JSON], json!({ "n": n, "text": text }).to_string().as_bytes()).status,
                204
            );
            if n == numbers.start {
                // They are there again, and what follows reaches them while the server dies.
                readers.iter().for_each(|reader| reader.says(&format!("item {n}")));
            }
        }
        if leg < KILLS {
            world.restart();
        }
        for n in numbers.skip(1) {
            readers.iter().for_each(|reader| reader.says(&format!("item {n}")));
        }
    }
    readers.into_iter().for_each(App::done);
}

/// A producer sends again what was not answered, also to a server that was killed since, and nothing is there twice.
fn produce(world: &mut World) {
    let mut app = world.app(JavaScript, "produce", &[&ROUNDS.to_string()]);
    for round in 0..ROUNDS {
        app.says(&format!("round {round}"));
        let end = world.end("produce");
        let moved = move |answer: &Answer| answer.header("stream-next-offset") != end;
        match round % 4 {
            0 => app.go(),
            // The answers to what is stored are lost.
            1 | 2 => {
                world.proxy.let_appends(Appends::Unanswered);
                app.go();
                world.until("produce", moved);
                if round % 4 == 2 {
                    world.restart();
                }
                world.proxy.let_appends(Appends::Pass);
            }
            _ => {
                app.go();
                world.until("produce", moved);
                world.restart();
            }
        }
    }
    let count = ROUNDS * 20;
    app.says(&format!("close {count}"));
    world.proxy.let_appends(Appends::Unanswered);
    app.go();
    world.until("produce", |answer| answer.header("stream-closed") == "true");
    world.restart();
    world.proxy.let_appends(Appends::Pass);
    app.done();

    let answer = world.ask("GET", "produce", &[], b"");
    assert_eq!(answer.header("stream-closed"), "true");
    let messages: Vec<Value> = serde_json::from_slice(&answer.body).expect("a page of a JSON stream is JSON");
    let expected: Vec<Value> = (0..=count).map(|n| json!({ "n": n })).collect();
    assert_eq!(messages, expected, "each message is there once, in order");
}

/// The protocol's state client makes of a device's stream what lies in the device's folder.
fn contacts(world: &mut World) {
    let device = Device::init(world.scratch.path().join("alice"), &world.proxy.url(), "alice");
    let contacts = files(&fixtures().join("contacts"));
    contacts.iter().for_each(|(name, content)| device.write(&format!("contacts/{name}"), content));
    device.sync();
    for (n, (name, content)) in contacts.iter().enumerate() {
        match n % 10 {
            0 => device.remove(&format!("contacts/{name}")),
            1 => device.write(&format!("contacts/{name}"), [content.as_slice(), b"\n"].concat()),
            _ => {}
        }
    }
    device.sync();
    let folder = device.dir().join("contacts");
    let mut app = world.app(JavaScript, "contacts", &[folder.to_str().expect("a plain name")]);
    app.says("folded");
    world.restart();
    device.write("contacts/new.vcf", "BEGIN:VCARD\nVERSION:4.0\nFN:New\nEND:VCARD\n");
    device.sync();
    app.go();
    app.done();
}
