//! The subcommands.

pub(crate) mod conform;
pub(crate) mod debug;
pub(crate) mod hil;
pub(crate) mod libvirt_xml;
pub(crate) mod play;
pub(crate) mod record;
pub(crate) mod run;
pub(crate) mod shell;
pub(crate) mod zoo;
