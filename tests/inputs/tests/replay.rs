//! Every target with its seeds, with damaged seeds, and with every input that once broke something, without a fuzzer.
//!
//! The damage is drawn from a fixed seed, so that a failure repeats. It is no fuzzing: it shows that the targets hold
//! where they are and that regressions stay mended.

use everlog_inputs::{TARGETS, Target};
use everlog_tests::sim::Rng;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Damaged seeds of a target.
const DAMAGED: u64 = 400;
/// Inputs of nothing but noise: what a target does to a file of its own follows them.
const NOISE: u64 = 600;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz")
}

fn try_one(target: &Target, input: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.check)(input))).is_err() {
        let path = std::env::temp_dir().join(format!("everlog-input-{}", target.name));
        std::fs::write(&path, input).expect("there is room for an input");
        panic!("{} fails with {what}; to run it again: inputs replay {0} {}", target.name, path.display());
    }
}

#[test]
fn all_holds_for_the_seeds_and_for_damaged_ones() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has seeds", target.name);
        for (n, seed) in seeds.iter().enumerate() {
            try_one(target, seed, &format!("seed {n}"));
        }
        try_one(target, &[], "nothing");
        let mut rng = Rng::new(7);
        for n in 0..DAMAGED {
            let mut input = rng.pick(&seeds).clone();
            for _ in 0..rng.between(1, 5) {
                damage(&mut rng, &mut input);
            }
            try_one(target, &input, &format!("damaged seed {n}"));
        }
        for n in 0..NOISE {
            let input: Vec<u8> = (0..rng.between(2, 40)).map(|_| rng.below(256) as u8).collect();
            try_one(target, &input, &format!("noise {n}"));
        }
    }
}

fn damage(rng: &mut Rng, input: &mut Vec<u8>) {
    let at = rng.below(input.len() as u64 + 1) as usize;
    match rng.below(5) {
        0 if at < input.len() => input[at] ^= 1 << rng.below(8),
        1 if at < input.len() => input[at] = rng.below(256) as u8,
        2 => input.insert(at, rng.below(256) as u8),
        3 => input.truncate(at.max(1)),
        _ => {
            let end = (at + rng.below(9) as usize).min(input.len());
            drop(input.drain(at..end));
        }
    }
}

#[test]
fn what_broke_once_holds_now() {
    for target in TARGETS {
        let Ok(entries) = std::fs::read_dir(fuzz().join("regressions").join(target.name)) else { continue };
        for entry in entries {
            let path = entry.expect("readable").path();
            let input = std::fs::read(&path).expect("readable");
            try_one(target, &input, &path.display().to_string());
        }
    }
}

#[test]
fn every_target_has_a_file_for_the_fuzzer_and_every_file_a_target() {
    let stems = |folder: PathBuf| -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
        entries.map(|e| e.expect("readable").path().file_stem().expect("a name").to_string_lossy().into()).collect()
    };
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(stems(fuzz().join("fuzz_targets")), names);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("readable");
    for Target { name, path, .. } in TARGETS {
        let bin = format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"");
        assert!(manifest.contains(&bin), "tests/fuzz/Cargo.toml has no {name}");
        let file = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).expect("readable");
        assert!(file.contains(&format!("everlog_inputs::{path}(data)")), "{name}.rs calls another target");
    }
    assert!(stems(fuzz().join("regressions")).is_subset(&names), "regressions of a target that does not exist");
}
