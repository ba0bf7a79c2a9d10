//! The tests on a kernel that refuses io_uring, as containers do by default.
//!
//! strace answers every `io_uring_setup` with ENOSYS; nothing in the product knows of it. Invariant: the step passes
//! only if the refusal was seen to happen, since tests that never ask for io_uring would prove nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::steps::{Failure, Outcome, call, cargo, untold};

const REMEDY: &str = "install it with: apt-get install --yes strace";

pub fn run(root: &Path) -> Outcome {
    let probe = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return Err(Failure::new("strace is missing", REMEDY));
    }
    // Built beforehand, so that the compiler is not traced.
    call(cargo(root, &["test", "--workspace", "--no-run"]))?;

    const LOG: &str = "target/posix-strace.log";
    // A process that is traced cannot be traced once more. Those tests name the blocking backend themselves. And what
    // runs on a simulated disk, or on none, asks no kernel for anything.
    let inner = cargo(root, &["test", "--workspace", "--", "--skip", "traced::", "--skip", "simulated::"]);
    let mut command = untold(Command::new("strace"));
    command.current_dir(root);
    // With --seccomp-bpf only the one call stops the tests; all others run at full speed.
    command.args(["-f", "--seccomp-bpf", "-qq", "-e", "trace=io_uring_setup"]);
    command.args(["-e", "inject=io_uring_setup:error=ENOSYS", "-e", "signal=none", "-o", LOG]);
    command.arg(inner.get_program()).args(inner.get_args());
    call(command)?;

    let told = std::fs::read(root.join(LOG))
        .map_err(|e| Failure::new(format!("{LOG} cannot be read: {e}"), "see whether strace may trace here"))?;
    proof(&String::from_utf8_lossy(&told)).map(|line| eprintln!("{line}"))
}

/// What the log of the refused calls proves.
fn proof(log: &str) -> Result<String, Failure> {
    let calls = || log.lines().filter(|line| line.contains("io_uring_setup("));
    let refused = calls().filter(|line| line.contains("ENOSYS") && line.contains("INJECTED")).count();
    // Of a process that was killed within the call it is told that there is no result: `) = ?`.
    let has_result = |line: &&str| line.contains(") = ") && !line.contains(") = ?");
    if let Some(granted) = calls().find(|line| has_result(line) && !line.contains("INJECTED")) {
        return Err(Failure::new(
            format!("io_uring was not refused once: {granted}"),
            "see whether strace may inject errors here",
        ));
    }
    if refused == 0 {
        return Err(Failure::new(
            "no test asked for io_uring, so nothing shows that the posix backend ran in its place",
            "let the tests of the store open it with the default backend",
        ));
    }
    Ok(format!("posix was used: io_uring_setup was refused {refused} times, and every test passed without it"))
}

#[cfg(test)]
mod tests {
    use super::proof;

    const REFUSED: &str = "71 io_uring_setup(8, {flags=0}) = -1 ENOSYS (Function not implemented) (INJECTED)\n";

    #[test]
    fn refusals_are_counted() {
        let line = proof(&REFUSED.repeat(3)).expect("all were refused");
        assert!(line.contains("refused 3 times"), "{line}");
    }

    #[test]
    fn no_refusal_is_no_proof() {
        assert!(proof("").is_err());
        assert!(proof("71 +++ exited with 0 +++\n").is_err());
    }

    #[test]
    fn a_call_that_its_process_did_not_survive_is_no_grant() {
        let killed = "71 io_uring_setup(2, {flags=0, sq_thread_idle=0 <unfinished ...>) = ?\n";
        assert!(proof(&format!("{REFUSED}{killed}")).is_ok());
        assert!(proof(killed).is_err(), "nothing was refused");
    }

    #[test]
    fn one_grant_spoils_the_proof() {
        let granted = "71 io_uring_setup(8, {flags=0, sq_entries=8}) = 5\n";
        assert!(proof(&format!("{REFUSED}{granted}")).is_err());
    }
}
