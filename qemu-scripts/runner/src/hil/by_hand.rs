//! A script that does a run again by hand: it starts the card, and QEMU at its socket.
//!
//! Fed by [`super::run`] with the command lines of both; feeds the folder of the case.

use super::run::files;
use crate::card::SOCKET;
use crate::qemu::escaped;
use anyhow::Context;
use std::ffi::OsString;
use std::path::Path;

/// Writes the script into `folder`, which has the run's files; `dir` is where its socket is.
///
/// What card and guest are given is read where the script is, so that the folder may be moved to another place of this
/// machine. What they write goes into a new one.
pub(super) fn write(folder: &Path, dir: &Path, card: &[OsString], qemu: &[OsString]) -> anyhow::Result<()> {
    let here = std::env::current_dir().context("there is no current directory")?;
    let path = folder.join(files::SCRIPT);
    let text = script(&here, (folder, dir), card, qemu);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn script(here: &Path, (folder, dir): (&Path, &Path), card: &[OsString], qemu: &[OsString]) -> String {
    let quote = |word: &OsString| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    // A comma ends a part of an option of QEMU.
    let line = |words: &[OsString], folder_there: &str, from: &str| {
        let mut line = words.iter().map(quote).collect::<Vec<_>>().join(" ");
        line = line.replace(&dir.display().to_string(), r#"'"$dir"'"#);
        for name in [files::AUDIO, files::CAPSULE, files::REPORT] {
            line = line.replace(&folder.join(name).display().to_string(), &format!(r#"'"$dir"'/{name}"#));
        }
        line.replace(&format!("{folder_there}/"), &format!("'\"${from}\"'/"))
    };
    let card = line(card, &folder.display().to_string(), "from");
    let qemu = line(qemu, &escaped(folder), "from_in_options");
    let here = quote(&here.into());
    format!(
        r#"#!/bin/sh
# This run again by hand: the card, and QEMU at its socket. What they write goes into a new folder.
from=$(cd "$(dirname "$0")" && pwd) || exit
from_in_options=$(printf %s "$from" | sed 's/,/,,/g')
dir=$(mktemp -d) || exit
echo "audio, report and recording go into $dir" >&2
cd {here} || exit
{card} &
card=$!
until [ -S "$dir/{SOCKET}" ]; do
    kill -0 "$card" || exit
    sleep 0.1
done
{qemu}
code=$?
# A card whose QEMU did not come this far waits for it.
kill "$card" 2>/dev/null
wait "$card"
exit "$code"
"#
    )
}
