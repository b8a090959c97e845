//! x
#[derive(clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_: Option<&str>, _: &Args) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
