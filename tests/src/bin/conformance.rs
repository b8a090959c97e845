//! Writes the conformance table from the tests: `cargo run -p dmus-tests --bin conformance`.

use dmus_tests::conformance;

fn main() -> anyhow::Result<()> {
    let file = conformance::file();
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&file, conformance::table()?)?;
    println!("{}", file.display());
    Ok(())
}
