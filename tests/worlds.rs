//! Many small worlds, each with its own misfortunes: see `sim/world/` for what happens in one, `sim/disk/` for what a disk
//! may do, and `oracle/` for what must hold.
//!
//! `EVERLOG_SEEDS=n` runs n seeds of each scenario instead of the number that stands here. A world that fails is made
//! small and printed with the command that runs it again.

use everlog_tests::sim::campaign;
use everlog_tests::sim::world::{Plan, Scenario, Tally};

/// Runs a scenario's seeds, and expects that each of `lively` was seen at least once in four worlds.
fn scenario(scenario: Scenario, lively: impl Fn(&Tally) -> Vec<u64>) {
    let count = match std::env::var("EVERLOG_SEEDS") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("EVERLOG_SEEDS is a number, not {text:?}")),
        Err(_) => everlog_tests::sim::seeds_in_ci(scenario),
    };
    let tally = campaign::random(scenario, 0..count).unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!("{count} seeds of {}: {tally:?}", scenario.name());
    // Worlds in which nothing happens would prove nothing.
    for (n, seen) in lively(&tally).into_iter().enumerate() {
        assert!(count < 100 || seen >= count / 4, "the count number {n} is only {seen} in {count} worlds: {tally:?}");
    }
}

fn each_operation(scenario: Scenario) {
    let seeds = everlog_tests::sim::disturbed_in_ci(scenario);
    let done = campaign::each_operation(scenario, 0..seeds);
    let (tally, worlds) = done.unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!("{seeds} worlds of {}, disturbed at each operation: {worlds} in all: {tally:?}", scenario.name());
    assert!(seeds > 0 && worlds > 100 * seeds, "a world has some hundred operations");
}

mod simulated {
    use super::*;

    #[test]
    fn no_crash_takes_what_was_acknowledged_or_leaves_what_was_not_whole() {
        scenario(Scenario::Crash, |t| {
            vec![
                t.acknowledged,
                t.refused,
                t.kept,
                t.lost,
                t.power_losses,
                t.in_recovery,
                t.merges,
                t.outwaited,
                t.expired,
                t.forks,
                t.dropped,
                t.scrubs,
            ]
        });
    }

    #[test]
    fn nor_does_one_in_buffered_mode() {
        scenario(Scenario::Buffered, |t| {
            vec![t.acknowledged, t.refused, t.kept, t.lost, t.power_losses, t.in_recovery]
        });
    }

    #[test]
    fn what_is_recovered_and_repeated_survives_a_loss_of_power() {
        scenario(Scenario::KillThenPower, |t| vec![t.process_crashes, t.power_losses, t.repeated, t.kept]);
    }

    #[test]
    fn frames_that_complete_in_another_order_are_acknowledged_in_theirs() {
        scenario(Scenario::InFlight, |t| vec![t.acknowledged, t.lost, t.power_losses, t.possibly]);
    }

    #[test]
    fn after_a_failed_write_nothing_is_acknowledged_and_nothing_lost() {
        scenario(Scenario::Errors, |t| vec![t.failed, t.poisoned, t.acknowledged]);
    }

    #[test]
    fn nor_after_a_failed_sync_in_buffered_mode() {
        scenario(Scenario::ErrorsBuffered, |t| vec![t.failed, t.poisoned, t.acknowledged]);
    }

    #[test]
    fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
        // A rewrite that meets a full disk is rarer than the rest.
        scenario(Scenario::Full, |t| vec![t.short, t.acknowledged, t.flushes, 2 * t.loans]);
    }

    #[test]
    fn a_device_that_stands_still_delays_and_no_more() {
        scenario(Scenario::Stall, |t| vec![t.stalls, t.acknowledged]);
    }

    #[test]
    fn a_clock_that_jumps_changes_no_order() {
        scenario(Scenario::Clock, |t| vec![t.jumps, t.acknowledged]);
    }

    #[test]
    fn a_lost_write_is_found() {
        scenario(Scenario::Lost, |t| vec![t.lies]);
    }

    #[test]
    fn a_misdirected_write_is_found() {
        scenario(Scenario::Misdirected, |t| vec![t.lies, t.named]);
    }

    #[test]
    fn older_bytes_that_come_back_are_found() {
        scenario(Scenario::Stale, |t| vec![t.lies]);
    }

    #[test]
    fn a_flipped_bit_is_found() {
        scenario(Scenario::Flipped, |t| vec![t.lies, t.flips_scrubbed]);
    }

    #[test]
    fn a_flipped_bit_where_logs_are_looked_up_hides_none() {
        scenario(Scenario::LookUp, |t| vec![t.lies, t.named]);
    }

    #[test]
    fn a_crash_at_each_operation_of_thirty_worlds() {
        each_operation(Scenario::Crash);
    }

    #[test]
    fn a_failure_of_each_operation_of_ten_worlds() {
        each_operation(Scenario::Errors);
    }

    #[test]
    fn a_failure_of_each_operation_in_buffered_mode() {
        each_operation(Scenario::ErrorsBuffered);
    }

    #[test]
    fn no_room_and_no_descriptors_at_each_operation_of_ten_worlds() {
        each_operation(Scenario::Full);
    }

    #[test]
    fn the_same_plan_gives_the_same_trace() {
        for scenario in Scenario::ALL {
            let plan = Plan::random(scenario, 1);
            let traces = [campaign::run(&plan).1, campaign::run(&plan).1];
            let differ = traces[0].iter().zip(&traces[1]).position(|(a, b)| a != b);
            let lines = differ.map(|line| [&traces[0][line], &traces[1][line]]);
            assert!(traces[0] == traces[1], "{}, line {differ:?}: {lines:?}", scenario.name());
        }
    }
}
