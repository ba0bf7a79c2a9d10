//! `inputs seeds DIR` writes each target's seeds to DIR/TARGET; `inputs replay TARGET FILE...` runs inputs, as a fuzzer
//! would, without one.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["seeds", dir] => seeds(Path::new(dir)),
        ["replay", target, ref files @ ..] if !files.is_empty() => replay(target, files),
        _ => Err("inputs seeds DIR, or inputs replay TARGET FILE...".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn seeds(dir: &Path) -> Result<(), String> {
    for target in everlog_inputs::TARGETS {
        let dir = dir.join(target.name);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for (n, seed) in (target.seeds)().iter().enumerate() {
            let path = dir.join(format!("seed-{n:03}"));
            std::fs::write(&path, seed).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(())
}

fn replay(name: &str, files: &[&str]) -> Result<(), String> {
    let target = everlog_inputs::target(name).ok_or_else(|| format!("there is no target {name}"))?;
    for file in files {
        let input = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
        (target.check)(&input);
        eprintln!("{file}: all holds");
    }
    Ok(())
}
