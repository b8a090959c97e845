//! RIFF chunks of a file in memory, borrowed and bounded.
//!
//! Fed with the bytes of a file that may be hostile; feeds the DLS and SoundFont readers. No chunk reaches past the one
//! it lies in, nothing is copied, and nothing is allocated by a size that the file claims. Of what reaches too far, the
//! part that is there is read; what is no chunk ends its list. [`judge`] says once of a file where that is so.
//! (The `riff` crate reads from a stream: it checks no chunk against the list around it, allocates what a chunk says
//! before reading it, and panics on names that are no UTF-8.)

use super::error::{Fault, Mends, Problem};
use alloc::format;
use alloc::string::String;
use alloc::string::ToString;

/// Four characters that name a chunk or the type of a list.
pub type FourCc = [u8; 4];

/// By so many bytes a RIFF header may be short of its file.
const MISCOUNTED: usize = 8;
/// Lists deeper than this are not searched for the place of an error; DLS nests seven deep.
const MAX_DEPTH: usize = 10;

/// A chunk, or a list of chunks.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    /// What the chunk is called; of a list, its type.
    pub(super) name: FourCc,
    pub(super) is_list: bool,
    /// The content; of a list, behind its type.
    pub(super) data: &'a [u8],
    /// Where `data` begins in the file.
    pub(super) at: usize,
    /// Bytes that it should have besides, and has not.
    cut: usize,
}

/// By how much a file is longer than its header says, if that is a mistake in counting.
fn longer(says: usize, holds: usize) -> Option<usize> {
    let more = holds.checked_sub(says + says % 2)?;
    (1..=MISCOUNTED).contains(&more).then_some(more)
}

/// Says where the chunks of a file do not fit one another.
pub(super) fn judge(file: &[u8], root: &Chunk<'_>, mends: &mut Mends) {
    let says = file.get(4..8).map_or(0, |size| size.iter().rev().fold(0, |size, byte| size << 8 | usize::from(*byte)));
    if let Some(more) = longer(says.saturating_sub(4), file.len() - root.at) {
        mends.add(Fault::new(4, Problem::Longer(more)), "they are read, too");
    }
    judge_list(root, MAX_DEPTH, mends);
}

fn judge_list(list: &Chunk<'_>, depth: usize, mends: &mut Mends) {
    if list.cut > 0 {
        let room = list.data.len();
        mends.add(list.fault(Problem::Overrun { size: room + list.cut, room }), "what is there is read");
    }
    let mut chunks = list.children();
    for chunk in chunks.by_ref() {
        if depth > 0 {
            judge_list(&chunk, depth - 1, mends);
        }
    }
    if !chunks.data.is_empty() {
        mends.add(Fault::new(chunks.at, Problem::NoChunk(chunks.data.len())), "they are passed over");
    }
}

impl<'a> Chunk<'a> {
    /// The chunk that fills the file, as far as it is there. What follows it is ignored, but for the few bytes by which
    /// writers are wrong.
    pub(super) fn root(file: &'a [u8]) -> Result<Self, Fault> {
        if !file.starts_with(b"RIFF") {
            return Err(Fault::new(0, Problem::NotABank));
        }
        let mut header = Fields { data: &file[4..], at: 4 };
        let (size, name) = (header.u32()? as usize, header.take()?);
        let rest = header.data;
        let size = size.saturating_sub(4);
        let data = if longer(size, rest.len()).is_some() { rest } else { &rest[..size.min(rest.len())] };
        Ok(Self { name, is_list: true, data, at: header.at, cut: size.saturating_sub(rest.len()) })
    }

    /// The chunks of a list; none of any other chunk.
    pub(super) fn children(&self) -> Chunks<'a> {
        let data = if self.is_list { self.data } else { &[] };
        Chunks { data, at: self.at }
    }

    /// The content, field by field.
    pub(super) fn fields(&self) -> Fields<'a> {
        Fields { data: self.data, at: self.at }
    }

    /// A problem with the chunk as a whole.
    pub(super) fn fault(&self, problem: Problem) -> Fault {
        Fault::new(self.start(), problem)
    }

    /// Where the chunk begins in the file: eight bytes of header, and four for a list's type, come before its content.
    fn start(&self) -> usize {
        self.at - if self.is_list { 12 } else { 8 }
    }

    /// The first list or chunk of a name, and the only one that counts.
    pub(super) fn first(&self, is_list: bool, name: &FourCc, mends: &mut Mends) -> Option<Self> {
        let mut found = self.children().filter(|chunk| chunk.is_list == is_list && chunk.name == *name);
        let first = found.next();
        if let Some(second) = found.next() {
            mends.add(second.fault(Problem::Repeated), "the first one counts");
        }
        first
    }

    /// As [`Self::first`], where there must be one.
    pub(super) fn need(&self, is_list: bool, name: &'static FourCc, mends: &mut Mends) -> Result<Self, Fault> {
        self.first(is_list, name, mends).ok_or(self.fault(Problem::Missing(Name(*name))))
    }
}

/// The chunks of a list, in order, up to what is none.
pub(super) struct Chunks<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let (header, rest) = self.data.split_first_chunk::<8>()?;
        let [name @ .., a, b, c, d] = *header;
        let size = u32::from_le_bytes([a, b, c, d]) as usize;
        // What ends too early has a name, and what is no chunk has none.
        if size > rest.len() && !name.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return None;
        }
        let data = &rest[..size.min(rest.len())];
        let mut chunk = Chunk { name, is_list: false, data, at: self.at + 8, cut: size - data.len() };
        // Chunks begin at even offsets; writers forget the last pad byte.
        let next = (size + size % 2).min(rest.len());
        (self.data, self.at) = (&rest[next..], chunk.at + next);
        if name == *b"LIST"
            && let Some((kind, content)) = data.split_first_chunk()
        {
            chunk = Chunk { name: *kind, is_list: true, data: content, at: chunk.at + 4, ..chunk };
        }
        Some(chunk)
    }
}

/// Little-endian numbers, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) data: &'a [u8],
    /// Where `data` begins in the file.
    pub(super) at: usize,
}

impl Fields<'_> {
    /// Told of the last byte there is: behind it another chunk may begin.
    fn short(&self, needs: usize) -> Fault {
        let holds = self.data.len();
        Fault::new((self.at + holds).saturating_sub(1), Problem::Short { needs, holds })
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let short = self.short(N);
        let (bytes, rest) = self.data.split_first_chunk().ok_or(short)?;
        (self.data, self.at) = (rest, self.at + N);
        Ok(*bytes)
    }

    /// Passes over `bytes`.
    pub(super) fn skip(&mut self, bytes: usize) -> Result<(), Fault> {
        let short = self.short(bytes);
        (self.data, self.at) = (self.data.get(bytes..).ok_or(short)?, self.at + bytes);
        Ok(())
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, Fault> {
        self.take().map(i16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Fault> {
        self.take().map(i32::from_le_bytes)
    }

    /// A problem with the field that was just read, `bytes` wide.
    pub(super) fn before(&self, bytes: usize, problem: Problem) -> Fault {
        Fault::new(self.at - bytes, problem)
    }
}

/// A chunk's name as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub FourCc);

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0.trim_ascii_end().escape_ascii())
    }
}

/// The chunks around a byte of a file, outermost first: `DLS/lins/ins[3]/lrgn/rgn2[0]/wsmp`. Numbers count from 0 among
/// namesakes.
pub(super) fn path(file: &[u8], offset: usize) -> String {
    let Some(mut around) = Chunk::root(file).ok().filter(|root| !root.name.trim_ascii().is_empty()) else {
        return "the file".into();
    };
    let mut path = Name(around.name).to_string();
    for _ in 0..MAX_DEPTH {
        let mut counts = alloc::collections::BTreeMap::new();
        let mut inner = None;
        for chunk in around.children() {
            let number: &mut usize = counts.entry((chunk.is_list, chunk.name)).or_default();
            if (chunk.start()..chunk.at + chunk.data.len()).contains(&offset) {
                inner = Some((chunk, *number));
                break;
            }
            *number += 1;
        }
        let Some((chunk, number)) = inner else {
            break;
        };
        let numbered = matches!(&chunk.name, b"ins " | b"rgn " | b"rgn2" | b"wave");
        path += &if numbered { format!("/{}[{number}]", Name(chunk.name)) } else { format!("/{}", Name(chunk.name)) };
        around = chunk;
    }
    path
}
