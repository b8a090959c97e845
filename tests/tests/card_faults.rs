//! A card that does what no card may do, by a plan: the driver recovers or says what is wrong. It never hangs, and
//! never plays, captures or loses something else without a word.
//!
//! `cargo run --release -p dmus-tests --bin card_faults 50` tries each fault at each of its first 50 occasions.

use anyhow::ensure;
use dmus_card::bank::Bank;
use dmus_card::check::Checker;
use dmus_card::deviation::{Fault, Plan};
use dmus_driver::{DriverError, Platform};
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::Fault as Told;
use dmus_interface::ring::Status;
use dmus_tests::card_faults::{Outcome, Scenario, bank, judge, plan, run};
use dmus_tests::direct::Direct;
use dmus_tests::loopback::MemorySink;
use dmus_tests::raw::RawStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The first ones, which opening and starting meet, and some that playing meets.
const OCCASIONS: [u64; 7] = [1, 2, 3, 7, 12, 20, 31];

/// Each fault at some occasions in each scenario, where there is such an occasion.
fn for_each(
    faults: &[Fault],
    mut check: impl FnMut(Scenario, Fault, u64, &Outcome) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for scenario in Scenario::ALL {
        let usual = run(scenario, Plan::default())?;
        ensure!(usual.outcome == Outcome::Recovered, "{scenario:?} without a fault: {:?}", usual.outcome);
        for fault in faults {
            let mut met = 0;
            for occasion in OCCASIONS {
                let ran = judge(scenario, *fault, occasion, &usual)?;
                if ran.deviations.occasions()["faults"][fault.name()].as_u64() >= Some(occasion) {
                    met += 1;
                    check(scenario, *fault, occasion, &ran.outcome)?;
                }
            }
            ensure!(met >= 3, "{scenario:?} has only {met} of these occasions of {}", fault.name());
        }
    }
    Ok(())
}

#[test]
fn no_fault_of_the_card_hangs_the_driver_passes_without_a_word_or_is_put_on_the_driver() -> anyhow::Result<()> {
    for_each(Fault::ALL, |scenario, fault, occasion, outcome| {
        ensure!(!outcome.is_bad(), "{scenario:?}, {} at {occasion}: {outcome:?}", fault.name());
        Ok(())
    })
}

#[test]
fn a_doubled_completion_or_one_of_another_slot_ends_in_an_error() -> anyhow::Result<()> {
    for_each(&[Fault::CompletionDoubled, Fault::CompletionSlot], |scenario, fault, occasion, outcome| {
        ensure!(matches!(outcome, Outcome::Error(_)), "{scenario:?}, {} at {occasion}: {outcome:?}", fault.name());
        Ok(())
    })
}

/// The last one, too, after which no position tells that one is missing.
#[test]
fn what_is_captured_and_told_as_discarded_ends_in_an_error() -> anyhow::Result<()> {
    let usual = run(Scenario::Capture, Plan::default())?;
    for occasion in 1..=24 {
        let outcome = judge(Scenario::Capture, Fault::CompletionStatus, occasion, &usual)?.outcome;
        ensure!(matches!(outcome, Outcome::Error(_)), "at {occasion}: {outcome:?}");
    }
    Ok(())
}

#[test]
fn lost_late_and_doubled_interrupts_change_nothing() -> anyhow::Result<()> {
    let faults = [Fault::InterruptLost, Fault::InterruptLate, Fault::InterruptDoubled];
    for_each(&faults, |scenario, fault, occasion, outcome| {
        ensure!(*outcome == Outcome::Recovered, "{scenario:?}, {} at {occasion}: {outcome:?}", fault.name());
        Ok(())
    })
}

#[test]
fn a_card_that_is_gone_was_reset_or_shows_a_wrong_time_is_told_as_that() -> anyhow::Result<()> {
    for scenario in Scenario::ALL {
        let usual = run(scenario, Plan::default())?;
        let error = |fault, occasion| Ok::<_, anyhow::Error>(judge(scenario, fault, occasion, &usual)?.outcome);
        for occasion in [1, 2, 3, 9, 20] {
            assert_eq!(error(Fault::Removed, occasion)?, Outcome::Error(DriverError::CardGone), "{scenario:?}");
        }
        assert_eq!(error(Fault::Reset, 1)?, Outcome::Error(DriverError::CardReset), "{scenario:?}");
        let jumped = error(Fault::ClockJumps, 2)?;
        ensure!(matches!(jumped, Outcome::Error(DriverError::ClockBeyondGrant { .. })), "{scenario:?}: {jumped:?}");
    }
    Ok(())
}

#[test]
fn a_recorded_run_with_a_fault_is_replayed_as_it_was() -> anyhow::Result<()> {
    for scenario in Scenario::ALL {
        for fault in Fault::ALL {
            for occasion in [1, 3, 12] {
                let ran = run(scenario, plan(*fault, occasion))?;
                let audio = MemorySink::default();
                let what = format!("{scenario:?}, {} at {occasion}", fault.name());
                let replayed = ran
                    .recording
                    .replay(&bank(), Box::new(audio.clone()), None)
                    .map_err(|error| error.context(what.clone()))?;
                ensure!(audio.samples() == ran.heard.0, "{what}: other audio");
                let counted = [replayed.stats.interrupts.get(), replayed.stats.resets.get()];
                ensure!(counted == ran.counted, "{what}: {counted:?} interrupts and resets, not {:?}", ran.counted);
            }
        }
    }
    Ok(())
}

#[test]
fn a_ring_that_the_card_cannot_reach_by_a_fault_is_told_to_the_driver_and_not_put_on_it() -> anyhow::Result<()> {
    let checker = Arc::new(Checker::new(&[], None));
    let heard = (Box::new(MemorySink::default()) as _, Vec::new());
    let plan = plan(Fault::DmaError, 1);
    let (platform, _) = Direct::deviating(plan, Bank::default(), heard, &checker, std::io::sink())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.submit(0, s.inline(0, &[0x90, 60, 100]), 0);
    platform.run_until_idle();
    assert_eq!(s.take_fault(), Some(Told::RingFault));
    assert_eq!(platform.stats.faults.get(), 1);
    ensure!(checker.counts().is_empty(), "{:?}", checker.counts());
    Ok(())
}

#[test]
fn a_card_that_is_not_recorded_has_its_faults_too() -> anyhow::Result<()> {
    let (platform, _) = Direct::deviating_alone(plan(Fault::FetchRefused, 2))?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    for (slot, status) in [(0, Status::Presented), (1, Status::Rejected), (2, Status::Presented)] {
        let end = 1000 * i64::from(slot + 1);
        s.submit(slot, s.inline(end - 500, &[0x90, 60, 100]), end);
        assert_eq!(s.completion()?.status, status, "slot {slot}");
    }
    Ok(())
}

#[test]
fn clocks_that_stand_jump_or_are_slow_show_so_from_what_they_showed_before() -> anyhow::Result<()> {
    let (ms, minute) = (10_000, 600_000_000);
    for (fault, shown) in [
        (Fault::ClockStands, [(ms, 48), (ms, 48)]),
        (Fault::ClockJumps, [(3 * ms + minute, 144), (5 * ms + minute, 240)]),
        (Fault::ClockSlow, [(2 * ms, 96), (3 * ms, 144)]),
    ] {
        let (platform, _) = Direct::deviating_alone(plan(fault, 3))?;
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        let page = platform.doorbell();
        let after = |granted| {
            s.grant(granted);
            platform.run_until_idle();
            let word = |word| page.load_u64(word, Ordering::Acquire);
            (word(doorbell::MASTER_TIME), word(doorbell::SAMPLE_POSITION))
        };
        assert_eq!(after(ms as i64), (ms, 48), "{fault:?} comes with the third publication");
        assert_eq!([after(3 * ms as i64), after(5 * ms as i64)], shown, "{fault:?}");
    }
    Ok(())
}
