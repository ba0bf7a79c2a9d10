//! Cold stores that are real: a folder, and a bucket of SeaweedFS, are asked for the same things by the same questions.
//!
//! Each is asked by a process of its own, whose environment says where the bucket is and what opens it. What a simulated
//! one does, and what goes wrong with it, is in the target `cold`.

use everlog_tests::net::{CREDENTIALS, S3, told};
use everlog_tests::programs::Program;
use everlog_tests::real::leftovers::folder_on_disk;
use std::process::{Command, Output};

/// The victim, asking the cold store `url` in `mode`.
fn asked(mode: &str, url: &str, env: &[(&'static str, String)]) -> Output {
    let mut command = Command::new(Program::Victim.path());
    command.args([mode, "--cold", url]).envs(env.iter().map(|(name, value)| (*name, value)));
    command.output().expect("the victim starts")
}

#[track_caller]
fn does_all(url: &str, env: &[(&'static str, String)]) {
    let output = asked("contract", url, env);
    assert!(output.status.success(), "{url}: {}", told(&output));
}

/// It cannot be had, says so of each request, and repeats nothing of the credentials.
#[track_caller]
fn is_out_of_reach(url: &str, env: &[(&'static str, String)], why: &str) {
    let output = asked("out-of-reach", url, env);
    let told = told(&output);
    assert!(output.status.success(), "{url}: {told}");
    let of_each: Vec<&str> = told.lines().filter(|line| line.contains(" failed: ")).collect();
    assert!(of_each.len() == 5 && of_each.iter().all(|line| line.contains(why)), "{why:?} in each of: {told}");
    let (id, secret) = CREDENTIALS;
    for part in [id, secret, "testsecret", "another"] {
        assert!(!told.contains(part), "{part} stands in: {told}");
    }
}

#[test]
fn a_folder_does_what_a_cold_store_owes() {
    let dir = folder_on_disk("contract").expect("room for a folder");
    does_all(&format!("file://{}", dir.path().join("cold").display()), &[]);
}

#[test]
fn a_bucket_does_what_a_cold_store_owes_and_tells_what_cannot_be_had_from_what_is_missing() {
    let dir = folder_on_disk("bucket").expect("room for a folder");
    let s3 = S3::start(dir.path()).unwrap_or_else(|why| panic!("{why}"));
    let env = s3.env();
    does_all(&s3.url("contract"), &env);
    let with = |name: &str, value: &str| {
        env.clone().map(|(own, kept)| (own, if own == name { value.to_owned() } else { kept }))
    };
    is_out_of_reach("s3://none-of-ours/prefix", &env, "NoSuchBucket");
    is_out_of_reach(&s3.url("secret"), &with("AWS_SECRET_ACCESS_KEY", "anothersecret"), "SignatureDoesNotMatch");
    is_out_of_reach(&s3.url("key"), &with("AWS_ACCESS_KEY_ID", "ANOTHERKEY"), "InvalidAccessKeyId");
    drop(s3);
    is_out_of_reach(&format!("s3://{}/gone", everlog_tests::net::BUCKET), &env, "");
}
