//! The conformance table is that of the tests as they are.

use dmus_tests::conformance;

#[test]
fn the_table_is_up_to_date() -> anyhow::Result<()> {
    let table = conformance::table()?;
    assert!(table.lines().filter(|line| line.starts_with("| ")).count() > 20, "hardly a statement was found");
    assert!(
        std::fs::read_to_string(conformance::file()).is_ok_and(|written| written == table),
        "guest-driver/conformance/conformance.md is not what the tests say: cargo run -p dmus-tests --bin conformance"
    );
    Ok(())
}
