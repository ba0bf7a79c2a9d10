//! The protocol over HTTP beside a model of it (`model.rs`), while everlogd is killed again and again.
//!
//! Each client asks for whatever chance comes up with, on streams of its own (`client.rs`) and on one that all share
//! (`shared.rs`), and knows what it was told: every answer has to be the model's, after each kill as before. What was
//! acknowledged is there once, in order, byte for byte; what was not is there whole or not at all, and a repetition by
//! a producer's number is told what the first was or would have been. Some servers are asked to stop instead, and some
//! requests and answers are lost on a connection that breaks. Streams end by themselves, unless they are used, never early
//! and as late as is documented (`ends.rs`); they are forked, and kept for their forks. What this does not do: it kills the
//! process and not the machine.
//!
//! The requests are drawn from a seed, printed at the start; EVERLOG_HTTP_SEED sets it, EVERLOG_HTTP_KILLS how often
//! the server ends. Where in the requests a kill falls, and when a stream ends, is the machine's to say, so that a seed tells
//! the requests up to there and not the moment.

mod client;
mod draw;
mod ends;
mod model;
mod shared;
mod state;
mod stream;
mod wire;
mod world;

use client::{Client, Tally};
use everlog_tests::net::{Proxy, Server};
use everlog_tests::programs::target_dir;
use everlog_tests::sim::Rng;
use shared::{Member, Shared};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use world::{Way, World};

const CLIENTS: usize = 4;
/// How often the server ends, if EVERLOG_HTTP_KILLS does not say otherwise.
const KILLS: u64 = 40;
/// How long a long poll waits: who waits at a stream's end waits in vain here.
const LONG_POLL_MS: u64 = 50;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

#[test]
fn every_answer_is_the_models_however_often_the_server_is_killed() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as u64;
    let seed = number_from("EVERLOG_HTTP_SEED").unwrap_or_else(now);
    let kills = number_from("EVERLOG_HTTP_KILLS").unwrap_or(KILLS);
    eprintln!("EVERLOG_HTTP_SEED={seed} EVERLOG_HTTP_KILLS={kills}");
    let scratch = tempfile::Builder::new().prefix("http").tempdir_in(target_dir()).expect("room for a folder");
    std::fs::write(scratch.path().join("everlog.toml"), format!("long_poll_ms = {LONG_POLL_MS}\n"))
        .expect("a new file");
    let mut rng = Rng::new(seed);
    let (world, shared) = (World::new(), Shared::default());
    let proxies: Vec<Proxy> = (0..=CLIENTS).map(|_| Proxy::start()).collect();
    let (own, of_clients) = proxies.split_last().expect("one more than clients");
    let server = start(scratch.path(), &world, &proxies);
    let way = Way::new(&world, own);
    shared.create(&way);

    let (server, ended) = thread::scope(|scope| {
        let mut server = server;
        let clients: Vec<_> = of_clients
            .iter()
            .enumerate()
            .map(|(n, proxy)| {
                let (way, rng) = (Way::new(&world, proxy), rng.split());
                let (member, of_streams) = (Member::new(&shared, n), Way::new(&world, proxy));
                scope.spawn(move || run(Client::new(of_streams, n, rng.clone()), member, &way, rng))
            })
            .collect();
        // A client ends before it is told to only with a failure.
        let failed = || clients.iter().any(ScopedJoinHandle::is_finished);
        for _ in 0..kills {
            // Progress instead of time, so that slow and fast machines do the same.
            world.until_begun(rng.between(20, 600), failed);
            if failed() {
                break;
            }
            thread::sleep(Duration::from_micros(rng.below(3000)));
            world.ends();
            proxies.iter().for_each(|proxy| proxy.lead_to(None));
            if rng.chance(15) {
                let (status, log) = server.stop();
                assert!(status.success(), "{log}");
            } else {
                server.kill();
            }
            server = start(scratch.path(), &world, &proxies);
        }
        world.until_begun(100, failed);
        world.end();
        // The server stays until the last of them has ended, also where one has failed.
        let ended: Vec<_> = clients.into_iter().map(ScopedJoinHandle::join).collect();
        (server, ended)
    });
    let ended = ended.into_iter().map(|ended| ended.unwrap_or_else(|e| std::panic::resume_unwind(e)));
    let (tallies, members): (Vec<_>, Vec<_>) = ended.unzip();
    shared.check(&way, &members);
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");
    judge(&tallies, &members, kills);
}

/// A server on the store, to which all proxies lead.
fn start(scratch: &Path, world: &World, proxies: &[Proxy]) -> Server {
    let since = world.now();
    let server = Server::start(&scratch.join("store"), &[]);
    proxies.iter().for_each(|proxy| proxy.lead_to(Some(server.address())));
    world.started(since);
    server
}

fn run<'a>(mut client: Client<'a>, mut member: Member<'a>, way: &Way<'_>, mut rng: Rng) -> (Tally, Member<'a>) {
    while !way.world().is_over() {
        if rng.chance(25) {
            member.step(way, &mut rng);
        } else {
            client.step();
        }
    }
    client.check(true);
    (client.tally, member)
}

/// Requests among which something never happened would prove nothing of it.
fn judge(tallies: &[Tally], members: &[Member<'_>], kills: u64) {
    let mut answers: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in tallies.iter().flat_map(|tally| &tally.answers) {
        *answers.entry(kind).or_default() += count;
    }
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
    let (unanswered, repeated, stored_now) = (sum(|t| t.unanswered), sum(|t| t.repeated), sum(|t| t.stored_now));
    let (renewed, released) = (sum(|t| t.renewed), sum(|t| t.released));
    let possible_max = tallies.iter().map(|tally| tally.possible_max).max().unwrap_or_default();
    eprintln!("{kills} ends of the server; answers: {answers:?}");
    eprintln!(
        "{unanswered} without; sent again: {repeated} were stored, {stored_now} were not; {possible_max} states possible at most"
    );
    eprintln!("{renewed} to streams that would have ended unused; {released} deletions of what a stream was kept for");
    let (appended, again): (u64, u64) =
        members.iter().fold((0, 0), |(a, r), member| (a + member.appended, r + member.repeated));
    eprintln!("the shared stream: {appended} appends, {again} more that were stored without an answer");
    if kills < KILLS {
        return;
    }
    for kind in [
        "PUT 201",
        "PUT 200",
        "PUT 409",
        "POST 200",
        "POST 204",
        "POST 400",
        "POST 403",
        "POST 404",
        "POST 409",
        "POST 409 producer-conflict",
        "POST 412",
        "DELETE 204",
        "HEAD 200",
        "GET 200",
        "GET 404",
        "GET 410 trimmed",
        // Of streams that had ended by themselves.
        "GET 404 ended",
        "HEAD 404 ended",
        "POST 404 ended",
        "PUT 201 ended",
        "FORK 201",
        "FORK 200",
        "FORK 400",
        "FORK 404",
        "FORK 409",
        "FORK of fork 201",
        "FORK at sub-offset 201",
        // Of streams that were kept for their forks.
        "GET 410 deleted",
        "HEAD 410 deleted",
        "POST 410 deleted",
        "DELETE 410 deleted",
    ] {
        let is_there = answers.keys().any(|found| found.strip_suffix(" ended").unwrap_or(found) == kind);
        assert!(is_there || answers.contains_key(kind), "no {kind} among {answers:?}");
    }
    assert!(renewed > 0, "streams lived on since they were used");
    assert!(released > 0, "streams went with the last of their forks");
    assert!(repeated > 0 && stored_now > 0 && again > 0, "appends without an answer were stored, or not");
}
