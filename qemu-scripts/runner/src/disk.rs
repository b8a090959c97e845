//! A disk or CD image that a person brings along: what it is, and which firmware can boot it.
//!
//! Fed by the command line of `run` and `libvirt-xml`, and by scenarios; feeds [`crate::qemu`] and what is written for
//! libvirt. Only the first bytes are read: what they promise may still not boot.

use crate::exit::{Exit, Failure};
use flate2::read::DeflateDecoder;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: usize = 512;
/// Code of a boot record; what follows is the table of partitions.
const CODE: usize = 440;
const SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// ISO 9660: sectors, and where the first volume descriptor and that of El Torito are.
const CD_SECTOR: u64 = 2048;
const VOLUME: u64 = 16 * CD_SECTOR;
const BOOT_VOLUME: u64 = 17 * CD_SECTOR;
/// El Torito's platforms.
const PLATFORM_EFI: u8 = 0xEF;

/// How an image is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Qcow2,
    Raw,
    Cd,
}

/// What starts an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    Bios,
    Uefi,
}

/// An image that may boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) format: Format,
    /// BIOS where the image has code for it, for that starts sooner.
    pub(crate) firmware: Firmware,
}

impl Format {
    /// QEMU's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw | Self::Cd => "raw",
        }
    }
}

impl Disk {
    /// Looks at an image.
    pub(crate) fn recognise(path: &Path) -> Result<Self, Failure> {
        let unusable = |why: String| Failure::new(Exit::Unusable, format!("{}: {why}", path.display()));
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(unusable("there is no such image".into()));
            }
            Ok(found) if found.is_dir() => return Err(unusable("is a folder, not a disk image".into())),
            _ => {}
        }
        let file = File::open(path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
        let start = read(&file, 0, SECTOR).map_err(|error| unusable(format!("cannot be read: {error}")))?;
        if let Some(why) = of_another_kind(&start) {
            return Err(unusable(why));
        }
        let cd = read(&file, VOLUME, 6).is_ok_and(|volume| volume.get(1..6) == Some(b"CD001"));
        let (format, firmware) = if cd {
            (Format::Cd, of_cd(&file).map_err(|error| unusable(format!("cannot be read: {error}")))?)
        } else if start.starts_with(b"QFI\xfb") {
            let first = first_sector(&file).map_err(|error| unusable(format!("is a damaged qcow2 image: {error}")))?;
            // What cannot be looked into is left to the firmware to try.
            (Format::Qcow2, first.map_or(Some(Firmware::Bios), |sector| of_disk(&sector)))
        } else {
            (Format::Raw, of_disk(&start))
        };
        let firmware = firmware.ok_or_else(|| {
            unusable("is not bootable: nothing in it starts by BIOS or UEFI (data, or of another machine?)".into())
        })?;
        Ok(Self { format, firmware })
    }
}

/// Files that are often taken for a disk image, and what to do about them.
fn of_another_kind(start: &[u8]) -> Option<String> {
    let convert = |name: &str| format!("is a {name} image: qemu-img convert -O qcow2 makes one that boots here of it");
    let unpack = |tool: &str| format!("is compressed: unpack it with {tool} first");
    let starts = |magic: &[u8]| start.starts_with(magic);
    Some(match start {
        [] => "is empty".into(),
        _ if starts(b"KDMV") || starts(b"# Disk Descri") => convert("VMware"),
        _ if starts(b"vhdxfile") || starts(b"conectix") => convert("Hyper-V"),
        _ if start.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]) => convert("VirtualBox"),
        _ if starts(b"\xfd7zXZ\0") => unpack("xz -d"),
        _ if starts(&[0x1f, 0x8b]) => unpack("gzip -d"),
        _ if starts(&[0x28, 0xb5, 0x2f, 0xfd]) => unpack("zstd -d"),
        _ if starts(b"BZh") => unpack("bzip2 -d"),
        _ if starts(b"PK\x03\x04") => unpack("unzip"),
        _ if starts(b"\x7fELF") => "is a program, not a disk image".into(),
        _ => return None,
    })
}

/// Which firmware a disk with this first sector is for, if any.
fn of_disk(sector: &[u8]) -> Option<Firmware> {
    if sector.get(SECTOR - 2..SECTOR) != Some(&SIGNATURE) {
        return None;
    }
    // Partitions of type EE (a table of GUIDs follows) and EF (UEFI's own) are all that UEFI needs.
    let of_uefi =
        (0..4).any(|entry| matches!(sector.get(CODE + 6 + 16 * entry + 4).copied(), Some(0xEE | PLATFORM_EFI)));
    let has_code = sector.iter().take(CODE).any(|byte| *byte != 0);
    match (has_code, of_uefi) {
        (true, _) => Some(Firmware::Bios),
        (false, true) => Some(Firmware::Uefi),
        (false, false) => None,
    }
}

/// Which firmware a CD is for, by El Torito's catalogue: the platform of its first entry, and of each section.
fn of_cd(file: &File) -> io::Result<Option<Firmware>> {
    let volume = read(file, BOOT_VOLUME, 0x4b)?;
    if volume.get(7..30) != Some(b"EL TORITO SPECIFICATION") {
        return Ok(None);
    }
    let catalogue = u64::from(u32::from_le_bytes(array(&volume, 0x47)?));
    let catalogue = read(file, catalogue * CD_SECTOR, CD_SECTOR as usize)?;
    let platforms = catalogue.chunks(32).enumerate().filter_map(|(index, entry)| match (index, entry) {
        (0, [1, platform, ..]) | (1.., [0x90 | 0x91, platform, ..]) => Some(*platform),
        _ => None,
    });
    let platforms: Vec<u8> = platforms.collect();
    Ok(match platforms.as_slice() {
        [] => None,
        all if all.iter().all(|platform| *platform == PLATFORM_EFI) => Some(Firmware::Uefi),
        _ => Some(Firmware::Bios),
    })
}

/// The first sector of the disk in a qcow2 image; `None` if it is not here to be read (an image on top of another, or a
/// compression that few images have).
fn first_sector(file: &File) -> io::Result<Option<Vec<u8>>> {
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let header = read(file, 0, 112)?;
    let word = |at| io::Result::Ok(u64::from_be_bytes(array(&header, at)?));
    let half = |at| io::Result::Ok(u32::from_be_bytes(array(&header, at)?));
    let (has_backing, cluster_bits, encrypted) = (word(8)? != 0, half(20)?, half(32)? != 0);
    if !(9..=21).contains(&cluster_bits) {
        return Err(io::Error::other(format!("clusters of 2^{cluster_bits} bytes")));
    }
    let entry = |at| io::Result::Ok(u64::from_be_bytes(array(&read(file, at, 8)?, 0)?));
    let table = entry(word(40)?)? & OFFSET;
    let cluster = if table == 0 { 0 } else { entry(table)? };
    // Bit 62: compressed, by deflate or, with a bit of the header's incompatible features, by zstd.
    let (compressed, by_zstd) = (cluster >> 62 & 1 == 1, half(4)? >= 3 && word(72)? >> 3 & 1 == 1);
    if encrypted || (compressed && by_zstd) {
        return Ok(None);
    }
    if compressed {
        // The low bits are the place, those above them the number of further sectors that it takes.
        let bits = 62 - (cluster_bits - 8);
        let place = cluster & ((1 << bits) - 1);
        let sectors = (cluster & ((1 << 62) - 1)) >> bits;
        let packed = read(file, place, (sectors as usize + 1) * SECTOR)?;
        let mut sector = vec![0; SECTOR];
        DeflateDecoder::new(packed.as_slice()).read_exact(&mut sector)?;
        return Ok(Some(sector));
    }
    match cluster & OFFSET {
        0 if has_backing => Ok(None),
        0 => Ok(Some(vec![0; SECTOR])),
        place => read(file, place, SECTOR).map(Some),
    }
}

/// Up to `length` bytes, fewer at the end of the file.
fn read(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut got = 0;
    while got < length {
        match file.read_at(&mut bytes[got..], at.saturating_add(got as u64)) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let part = bytes.get(at..at + N).and_then(|part| part.try_into().ok());
    part.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use std::io::Write;

    fn boot_record(code: u8, kind: u8) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        sector[0] = code;
        sector[CODE + 6 + 4] = kind;
        sector[SECTOR - 2..].copy_from_slice(&SIGNATURE);
        sector
    }

    fn cd(platforms: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 20 * CD_SECTOR as usize];
        image[VOLUME as usize + 1..][..5].copy_from_slice(b"CD001");
        if let [first, more @ ..] = platforms {
            let boot = &mut image[BOOT_VOLUME as usize..];
            boot[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
            boot[0x47] = 19;
            let catalogue = &mut image[19 * CD_SECTOR as usize..];
            catalogue[..2].copy_from_slice(&[1, *first]);
            catalogue[32] = 0x88;
            for (index, platform) in more.iter().enumerate() {
                catalogue[64 + 64 * index..][..2].copy_from_slice(&[0x91, *platform]);
            }
        }
        image
    }

    /// A qcow2 image of version 2 whose first cluster, of 512 bytes, is this.
    fn qcow2(sector: &[u8], compressed: bool) -> io::Result<Vec<u8>> {
        let mut image = vec![0; 4 * SECTOR];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        image[23] = 9;
        image[40..48].copy_from_slice(&(SECTOR as u64).to_be_bytes());
        image[SECTOR..SECTOR + 8].copy_from_slice(&((1 << 63) + 2 * SECTOR as u64).to_be_bytes());
        let (mut place, mut data) = ((1 << 63) + 3 * SECTOR as u64, sector.to_vec());
        if compressed {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(sector)?;
            // Compressed data begins anywhere.
            place = (1 << 62) + 3 * SECTOR as u64 + 7;
            data = [vec![0; 7], encoder.finish()?].concat();
        }
        image[2 * SECTOR..2 * SECTOR + 8].copy_from_slice(&place.to_be_bytes());
        image.splice(3 * SECTOR.., data);
        Ok(image)
    }

    fn recognise(bytes: &[u8]) -> Result<Disk, String> {
        let file = tempfile::NamedTempFile::new().and_then(|mut file| file.write_all(bytes).map(|()| file));
        let file = file.map_err(|error| error.to_string())?;
        Disk::recognise(file.path()).map_err(|failure| {
            assert_eq!(failure.exit, Exit::Unusable);
            failure.message
        })
    }

    #[test]
    fn format_and_firmware_are_those_that_the_first_bytes_promise() -> anyhow::Result<()> {
        use Firmware::{Bios, Uefi};
        use Format::{Cd, Qcow2, Raw};
        let bios = boot_record(0xeb, 0x83);
        let uefi = boot_record(0, 0xee);
        for (bytes, format, firmware) in [
            (bios.clone(), Raw, Bios),
            (boot_record(0xeb, 0xee), Raw, Bios),
            (uefi.clone(), Raw, Uefi),
            (boot_record(0, 0xef), Raw, Uefi),
            (qcow2(&bios, false)?, Qcow2, Bios),
            (qcow2(&uefi, false)?, Qcow2, Uefi),
            (qcow2(&bios, true)?, Qcow2, Bios),
            (qcow2(&uefi, true)?, Qcow2, Uefi),
            (cd(&[0]), Cd, Bios),
            (cd(&[0, 0xef]), Cd, Bios),
            (cd(&[0xef, 0]), Cd, Bios),
            (cd(&[0xef]), Cd, Uefi),
        ] {
            assert_eq!(recognise(&bytes), Ok(Disk { format, firmware }));
        }
        Ok(())
    }

    #[test]
    fn what_cannot_boot_is_refused_in_a_sentence_that_says_what_to_do() -> anyhow::Result<()> {
        let with = |magic: &[u8], at: usize| {
            let mut bytes = vec![0; 2 * SECTOR];
            bytes[at..at + magic.len()].copy_from_slice(magic);
            bytes
        };
        for (bytes, complaint) in [
            (vec![], "is empty"),
            (vec![0; 4096], "is not bootable"),
            (boot_record(0, 0x83), "is not bootable"),
            (qcow2(&[0; SECTOR], false)?, "is not bootable"),
            (cd(&[]), "is not bootable"),
            (with(b"QFI\xfb", 0), "damaged qcow2 image"),
            (with(b"KDMV", 0), "qemu-img convert"),
            (with(b"vhdxfile", 0), "qemu-img convert"),
            (with(&[0x7f, 0x10, 0xda, 0xbe], 0x40), "qemu-img convert"),
            (with(b"\xfd7zXZ\0", 0), "xz -d"),
            (with(&[0x1f, 0x8b], 0), "gzip -d"),
            (with(b"\x7fELF", 0), "is a program"),
        ] {
            let said = recognise(&bytes).err().unwrap_or_default();
            assert!(said.contains(complaint), "{complaint}: {said}");
        }
        let missing = Disk::recognise(Path::new("/no/such.img")).expect_err("it is not there");
        assert!(missing.message.contains("there is no such image"), "{}", missing.message);
        Ok(())
    }
}
