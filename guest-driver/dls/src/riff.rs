//! RIFF chunks of a file in memory, borrowed and bounded.
//!
//! Fed with the bytes of a file that may be hostile; feeds the DLS and SoundFont readers. No chunk reaches past the one
//! it lies in, nothing is copied, and nothing is allocated by a size that the file claims. (The `riff` crate reads from
//! a stream: it checks no chunk against the list around it, allocates what a chunk says before reading it, and panics
//! on names that are no UTF-8.)

use super::error::{Fault, Problem};
use alloc::format;
use alloc::string::String;
use alloc::string::ToString;

/// Four characters that name a chunk or the type of a list.
pub type FourCc = [u8; 4];

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
}

impl<'a> Chunk<'a> {
    /// The chunk that fills the file. What follows it is ignored.
    pub(super) fn root(file: &'a [u8]) -> Result<Self, Fault> {
        if !file.starts_with(b"RIFF") {
            return Err(Fault::new(0, Problem::NotABank));
        }
        let mut header = Fields { data: &file[4..], at: 4 };
        let (size, name) = (header.u32()? as usize, header.take()?);
        let content = size.checked_sub(4).ok_or(Fault::new(4, Problem::Short { needs: 4, holds: size }))?;
        let rest = header.data;
        let data = rest.get(..content).ok_or(Fault::new(4, Problem::Overrun { size: content, room: rest.len() }))?;
        Ok(Self { name, is_list: true, data, at: header.at })
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

    /// The only list or chunk of a name. An error if there are two: which one counts would be a guess.
    pub(super) fn only(&self, is_list: bool, name: &FourCc) -> Result<Option<Self>, Fault> {
        let mut found = None;
        for chunk in self.children() {
            let chunk = chunk?;
            if chunk.is_list == is_list && chunk.name == *name && found.replace(chunk).is_some() {
                return Err(chunk.fault(Problem::Repeated));
            }
        }
        Ok(found)
    }

    /// As [`Self::only`], where there must be one.
    pub(super) fn need(&self, is_list: bool, name: &'static FourCc) -> Result<Self, Fault> {
        self.only(is_list, name)?.ok_or(self.fault(Problem::Missing(Name(*name))))
    }
}

/// The chunks of a list, in order, up to the first that is broken.
pub(super) struct Chunks<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Chunks<'a> {
    fn chunk(&mut self) -> Result<Chunk<'a>, Fault> {
        let start = self.at;
        let mut header = Fields { data: self.data, at: self.at };
        let (mut name, size) = (header.take()?, header.u32()? as usize);
        let rest = header.data;
        let mut data = rest.get(..size).ok_or(Fault::new(start, Problem::Overrun { size, room: rest.len() }))?;
        // Chunks begin at even offsets; writers forget the last pad byte.
        let next = (size + size % 2).min(rest.len());
        (self.data, self.at) = (&rest[next..], header.at + next);
        let mut at = header.at;
        let is_list = name == *b"LIST";
        if is_list {
            let mut list = Fields { data, at };
            name = list.take()?;
            (data, at) = (list.data, list.at);
        }
        Ok(Chunk { name, is_list, data, at })
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.data.is_empty() {
            return None;
        }
        let chunk = self.chunk();
        if chunk.is_err() {
            self.data = &[];
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
        Fault::new(self.at + holds - 1, Problem::Short { needs, holds })
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
    let Ok(mut around) = Chunk::root(file) else {
        return "the file".into();
    };
    let mut path = Name(around.name).to_string();
    for _ in 0..MAX_DEPTH {
        let mut counts = alloc::collections::BTreeMap::new();
        let mut inner = None;
        for chunk in around.children().map_while(Result::ok) {
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
