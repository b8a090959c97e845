//! A short soak; the long one is `qemu-scripts/soak`.

#[test]
fn two_million_events_in_every_shape_are_returned_and_leave_no_memory_behind() -> anyhow::Result<()> {
    // One after the other, since each looks at the memory of the process.
    for checked in [false, true] {
        let report = dmus_tests::soak::run(2_000_000, checked, |_| {})?;
        assert_eq!(report.resets, 1);
        assert!(report.counts.discarded > 0 && report.counts.presented > 1_900_000, "{report:?}");
    }
    Ok(())
}
