//! Owns the few facts that are read of an ELF file: what it needs, where it has it looked for, what it is called, and
//! which build it is. Reads only the tables that hold them, each within a bound; a file that is cut short, or that lies
//! about itself, is an error in words and never a panic. Must not know how libraries are found.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use goblin::container::Ctx;
use goblin::elf::dynamic::{
    DF_1_NODEFLIB, DT_FLAGS_1, DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_STRTAB, Dyn, Dynamic,
};
use goblin::elf::header::{Header, SIZEOF_IDENT};
use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader};

use super::file;
use crate::domain::components::loader::Search;

const MAGIC: &[u8] = b"\x7fELF";
/// Bytes of the larger of the two headers.
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADERS_MAX: usize = 512;
const DYNAMIC_BYTES_MAX: u64 = 256 << 10;
const NOTE_BYTES_MAX: u64 = 64 << 10;
const STRING_BYTES_MAX: usize = 4096;
const NEEDED_MAX: usize = 1024;
const BUILD_ID_BYTES_MAX: usize = 64;
const NT_GNU_BUILD_ID: u32 = 3;

/// What an ELF file says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Elf {
    /// Class and machine: what one process loads is of one kind.
    pub kind: (u8, u16),
    /// The loader that an executable names.
    pub interpreter: Option<String>,
    pub needed: Vec<String>,
    pub soname: Option<String>,
    pub search: Search,
    /// In hexadecimal digits.
    pub build_id: Option<String>,
}

/// Reads a file; `None`: it is no ELF file.
pub fn read(path: &Path) -> Result<Option<Elf>, String> {
    let (file, _) = file::open(path).map_err(|error| error.to_string())?;
    read_file(&file)
}

pub fn read_file(file: &File) -> Result<Option<Elf>, String> {
    // goblin does not panic on what it is given here, as far as is known; others' files are no reason to find out.
    let reading = catch_unwind(AssertUnwindSafe(|| parse(file)));
    reading.unwrap_or_else(|_| Err("it cannot be understood as an ELF file".to_owned()))
}

fn parse(file: &File) -> Result<Option<Elf>, String> {
    let head = file::read_at(file, 0, HEADER_BYTES).map_err(told)?;
    if !head.starts_with(MAGIC) {
        return Ok(None);
    }
    if head.len() < SIZEOF_IDENT {
        return Err("it is cut short in its header".to_owned());
    }
    let header = goblin::elf::Elf::parse_header(&head).map_err(bad("header"))?;
    let ctx = Ctx::new(header.container().map_err(bad("header"))?, header.endianness().map_err(bad("header"))?);
    let image = Image { file, headers: program_headers(file, &header, ctx)?, ctx };
    let mut elf = Elf { kind: (header.e_ident[4], header.e_machine), ..Elf::default() };
    elf.interpreter = image.interpreter()?;
    image.read_dynamic(&mut elf)?;
    elf.build_id = image.build_id()?;
    Ok(Some(elf))
}

fn program_headers(file: &File, header: &Header, ctx: Ctx) -> Result<Vec<ProgramHeader>, String> {
    let (count, each) = (usize::from(header.e_phnum), ProgramHeader::size(ctx));
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > PROGRAM_HEADERS_MAX {
        return Err(format!("it has {count} program headers; at most {PROGRAM_HEADERS_MAX} are read"));
    }
    if usize::from(header.e_phentsize) != each {
        return Err(format!("its program headers have {} bytes, and not {each}", header.e_phentsize));
    }
    let table = exactly(file, header.e_phoff, count * each, "program headers")?;
    ProgramHeader::parse(&table, 0, count, ctx).map_err(bad("program headers"))
}

struct Image<'f> {
    file: &'f File,
    headers: Vec<ProgramHeader>,
    ctx: Ctx,
}

impl Image<'_> {
    fn of_type(&self, kind: u32) -> impl Iterator<Item = &ProgramHeader> {
        self.headers.iter().filter(move |header| header.p_type == kind)
    }

    fn interpreter(&self) -> Result<Option<String>, String> {
        let Some(header) = self.of_type(PT_INTERP).next() else { return Ok(None) };
        self.string(header.p_offset, "loader's name").map(Some)
    }

    fn read_dynamic(&self, elf: &mut Elf) -> Result<(), String> {
        let entries = self.dynamic()?;
        let value = |tag: u64| entries.iter().find(|entry| entry.d_tag == tag).map(|entry| entry.d_val);
        let Some(strings) = value(DT_STRTAB) else { return Ok(()) };
        let strings = self.offset(strings).ok_or("its dynamic strings lie outside of what it loads")?;
        let string = |at: u64| self.string(strings.saturating_add(at), "dynamic string");
        let all = |tag: u64| entries.iter().filter(move |entry| entry.d_tag == tag).map(|entry| entry.d_val);
        if all(DT_NEEDED).count() > NEEDED_MAX {
            return Err(format!("it needs more than {NEEDED_MAX} libraries"));
        }
        elf.needed = all(DT_NEEDED).map(string).collect::<Result<_, _>>()?;
        elf.soname = value(DT_SONAME).map(string).transpose()?;
        let one = |tag| value(tag).map(string).transpose().map(|path| path.into_iter().collect());
        let no_default = value(DT_FLAGS_1).is_some_and(|flags| flags & DF_1_NODEFLIB != 0);
        elf.search = Search { rpath: one(DT_RPATH)?, runpath: one(DT_RUNPATH)?, no_default };
        Ok(())
    }

    fn dynamic(&self) -> Result<Vec<Dyn>, String> {
        let Some(header) = self.of_type(PT_DYNAMIC).next() else { return Ok(Vec::new()) };
        if header.p_filesz > DYNAMIC_BYTES_MAX {
            return Err(format!(
                "its dynamic section has {} bytes; at most {DYNAMIC_BYTES_MAX} are read",
                header.p_filesz
            ));
        }
        let bytes = exactly(self.file, header.p_offset, header.p_filesz as usize, "dynamic section")?;
        // What was read begins at its own first byte.
        let own = ProgramHeader { p_type: PT_DYNAMIC, p_filesz: bytes.len() as u64, ..ProgramHeader::default() };
        let dynamic = Dynamic::parse(&bytes, &[own], self.ctx).map_err(bad("dynamic section"))?;
        Ok(dynamic.map(|dynamic| dynamic.dyns).unwrap_or_default())
    }

    /// Where in the file an address of its memory is.
    fn offset(&self, address: u64) -> Option<u64> {
        self.of_type(PT_LOAD).find_map(|header| {
            let inside = address.checked_sub(header.p_vaddr).filter(|inside| *inside < header.p_filesz)?;
            header.p_offset.checked_add(inside)
        })
    }

    fn string(&self, offset: u64, what: &str) -> Result<String, String> {
        let bytes = file::read_at(self.file, offset, STRING_BYTES_MAX).map_err(told)?;
        match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => Ok(String::from_utf8_lossy(&bytes[..end]).into_owned()),
            None if bytes.len() < STRING_BYTES_MAX => Err(format!("it is cut short in its {what}")),
            None => Err(format!("its {what} has no end within {STRING_BYTES_MAX} bytes")),
        }
    }

    fn build_id(&self) -> Result<Option<String>, String> {
        for header in self.of_type(PT_NOTE) {
            // Others' notes may be larger; the build's is not.
            let size = header.p_filesz.min(NOTE_BYTES_MAX) as usize;
            let notes = file::read_at(self.file, header.p_offset, size).map_err(told)?;
            if let Some(id) = find_build_id(&notes, self.ctx.le.is_little()) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

/// Looks through notes (elf(5)): sizes of name and description, type, name, description, each on four bytes.
fn find_build_id(mut notes: &[u8], little: bool) -> Option<String> {
    loop {
        let word = |at: usize| {
            let bytes: [u8; 4] = notes.get(at..at + 4)?.try_into().ok()?;
            Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
        };
        let (name, description, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let name_end = 12_usize.checked_add(name)?;
        let start = name_end.checked_next_multiple_of(4)?;
        let end = start.checked_add(description)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..name_end)? == b"GNU\0" && description <= BUILD_ID_BYTES_MAX {
            let id = notes.get(start..end).filter(|id| !id.is_empty())?;
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

/// Reads just so many bytes.
fn exactly(file: &File, offset: u64, size: usize, what: &str) -> Result<Vec<u8>, String> {
    let bytes = file::read_at(file, offset, size).map_err(told)?;
    if bytes.len() == size { Ok(bytes) } else { Err(format!("it is cut short in its {what}")) }
}

fn told(error: io::Error) -> String {
    error.to_string()
}

fn bad(what: &'static str) -> impl Fn(goblin::error::Error) -> String {
    move |error| format!("its {what} cannot be understood: {error}")
}

#[cfg(test)]
mod tests;
