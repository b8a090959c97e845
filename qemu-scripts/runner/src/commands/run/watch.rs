//! What goes wrong with an image while the machine runs: firmware that finds nothing to boot, and a disk of the host
//! that is full.
//!
//! Fed by QEMU: BIOS's debug port, the serial line (where UEFI complains) and the machine protocol (QMP); feeds `run`
//! with a reason to end, and the user with a sentence.

use crate::exit::{Exit, Failure};
use crate::qemu::{Qemu, escaped};
use anyhow::Context;
use rustix::fs::{CWD, FileType, Mode, mknodat, statvfs};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What firmware says when nothing of the machine boots: SeaBIOS to its debug port, and EDK II to the serial line,
/// where it may also open a shell of its own then.
const BIOS_FINDS_NOTHING: &[&str] = &["No bootable device"];
const UEFI_FINDS_NOTHING: &[&str] = &["No bootable option or device was found", "UEFI Interactive Shell"];
/// Firmware has said so by then: what a guest prints later may hold the same words.
const FIRMWARE_SAYS: usize = 256 << 10;
/// How much room lets a guest go on whose disk was full, and how often it is looked for.
const ROOM: u64 = 64 << 20;
const LOOK: Duration = Duration::from_secs(1);

/// A watch over one QEMU, from before its start.
pub(super) struct Watch {
    image: PathBuf,
    bios: PathBuf,
    serial: PathBuf,
    qmp: PathBuf,
    nothing_boots: Arc<AtomicBool>,
}

impl Watch {
    /// Pipes and a socket in `dir`, each with somebody who reads it.
    pub(super) fn begin(dir: &Path, image: &Path) -> anyhow::Result<Self> {
        let this = Self {
            image: image.into(),
            bios: dir.join("bios"),
            serial: dir.join("serial"),
            qmp: dir.join("qmp.sock"),
            nothing_boots: Arc::default(),
        };
        for (path, words) in [(&this.bios, BIOS_FINDS_NOTHING), (&this.serial, UEFI_FINDS_NOTHING)] {
            let pipe = listen(path).with_context(|| format!("cannot make a pipe at {}", path.display()))?;
            let found = Arc::clone(&this.nothing_boots);
            std::thread::spawn(move || hear(pipe, words, &found));
        }
        let qmp = UnixListener::bind(&this.qmp).context("cannot listen for QEMU")?;
        let image = this.image.clone();
        // It ends with the connection, whose end is no fault.
        std::thread::spawn(move || wait_for_room(&qmp, &image).unwrap_or_default());
        Ok(this)
    }

    /// The option of the serial line's chardev that has a copy go here.
    pub(super) fn serial_log(&self) -> String {
        format!("logfile={}", escaped(&self.serial))
    }

    /// QEMU's side of the rest.
    pub(super) fn add_to(&self, qemu: &mut Qemu) {
        let (bios, qmp) = (escaped(&self.bios), escaped(&self.qmp));
        qemu.add(&[
            "-chardev",
            &format!("file,id=bios,path={bios}"),
            "-device",
            "isa-debugcon,iobase=0x402,chardev=bios",
        ]);
        qemu.add(&["-chardev", &format!("socket,id=qmp,path={qmp}"), "-qmp", "chardev:qmp"]);
    }

    /// Fails if there is no point in going on.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if !self.nothing_boots.load(Ordering::Relaxed) {
            return Ok(());
        }
        let message = format!(
            "{} does not boot: the firmware found nothing to start (a system for another processor, or with --uefi \
             one for BIOS; or its installation is not complete)",
            self.image.display()
        );
        Err(Failure::new(Exit::Unusable, message).into())
    }
}

/// A named pipe, opened both ways, so that it neither waits for a writer nor ends with one.
fn listen(path: &Path) -> io::Result<File> {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    File::options().read(true).write(true).open(path)
}

/// Reads a pipe for ever, so that its writer never waits, and looks for words at its beginning.
fn hear(mut pipe: File, words: &[&str], found: &AtomicBool) {
    let longest = words.iter().map(|words| words.len()).max().unwrap_or(0);
    let (mut bytes, mut kept, mut heard) = ([0; 4096], Vec::new(), 0);
    while let Ok(count) = pipe.read(&mut bytes) {
        if heard < FIRMWARE_SAYS {
            heard += count;
            kept.extend_from_slice(&bytes[..count]);
            let says = |words: &&str| kept.windows(words.len()).any(|part| part == words.as_bytes());
            if words.iter().any(says) {
                found.store(true, Ordering::Relaxed);
            }
            // The words may come in two parts.
            kept.drain(..kept.len().saturating_sub(longest));
        }
    }
}

/// QEMU holds a guest whose disk is full. Says so, and has it go on when there is room again.
fn wait_for_room(listener: &UnixListener, image: &Path) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    let mut commands = stream.try_clone()?;
    let mut send = |command: &str| writeln!(commands, "{}", json!({ "execute": command }));
    send("qmp_capabilities")?;
    for line in BufReader::new(stream).lines() {
        if !is_held_for_room(&line?) {
            continue;
        }
        let (image, folder) = (image.display(), image.parent().filter(|folder| *folder != Path::new("")));
        tracing::warn!("the host's disk that holds {image} is full: the guest waits, and goes on when there is room");
        while statvfs(folder.unwrap_or(Path::new("."))).is_ok_and(|disk| disk.f_bavail * disk.f_frsize < ROOM) {
            std::thread::sleep(LOOK);
        }
        send("cont")?;
    }
    Ok(())
}

/// Whether a line of QMP is the event of a guest that is held because a disk of the host has no room.
fn is_held_for_room(line: &str) -> bool {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    event["event"] == "BLOCK_IO_ERROR" && event["data"]["nospace"] == true && event["data"]["action"] == "stop"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_firmware_are_found_in_parts_and_only_at_the_beginning() -> io::Result<()> {
        let heard = |parts: &[&[u8]]| {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("pipe");
            let pipe = listen(&path)?;
            let found = Arc::new(AtomicBool::new(false));
            let mut writer = pipe.try_clone()?;
            let hearing = Arc::clone(&found);
            std::thread::spawn(move || hear(pipe, &["no disk", "nothing boots"], &hearing));
            for part in parts {
                writer.write_all(part)?;
            }
            // The pipe is empty once the reader has taken what is in it; it has looked at that when it asks for more.
            writer.write_all(&vec![b'.'; 1 << 20])?;
            io::Result::Ok(found.load(Ordering::Relaxed))
        };
        assert!(heard(&[b"SeaBIOS\nnothing boots."])?);
        assert!(heard(&[&[b' '; 4090], b"nothing ", b"boots"])?);
        assert!(!heard(&[b"all boots"])?);
        assert!(!heard(&[&vec![b' '; FIRMWARE_SAYS + 4096], b"nothing boots"])?);
        Ok(())
    }

    #[test]
    fn a_guest_is_held_for_room_only_if_the_disk_is_full() {
        let event = |nospace, action| {
            is_held_for_room(
                &json!({ "event": "BLOCK_IO_ERROR", "data": { "nospace": nospace, "action": action } }).to_string(),
            )
        };
        assert!(event(true, "stop"));
        assert!(!event(false, "stop") && !event(true, "report"));
        assert!(!is_held_for_room(r#"{"event": "STOP"}"#) && !is_held_for_room("nospace"));
    }
}
