//! Small files that an operator can read: lines of text, and a last one with their checksum.

use std::io;
use std::path::Path;

use super::StorageError;
use super::disk::Disk;

/// Writes `lines` and their checksum to `file`; it is there whole, or not at all.
pub(super) fn write(disk: &dyn Disk, file: &str, lines: &str) -> Result<(), StorageError> {
    let temporary = format!("{file}.new");
    let write = || {
        let new = disk.create(Path::new(&temporary))?;
        new.write_all_at(seal(lines).as_bytes(), 0)?;
        new.sync_data()?;
        disk.rename(Path::new(&temporary), Path::new(file))?;
        disk.sync_dir(Path::new(""))
    };
    write().map_err(|error| StorageError::io("write", disk.locate(Path::new(file)), error))
}

/// The content of `file`, for [`unseal`]; `None` if there is no such file.
pub(super) fn read(disk: &dyn Disk, file: &str) -> Result<Option<Vec<u8>>, StorageError> {
    match disk.read(Path::new(file)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io(
            "read",
            disk.locate(Path::new(file)),
            error,
        )),
    }
}

/// That `file` is not what was written.
pub(super) fn damaged(disk: &dyn Disk, file: &str) -> StorageError {
    StorageError::Corrupt {
        file: disk.locate(Path::new(file)),
        offset: 0,
        what: "it does not match its checksum".to_owned(),
    }
}

pub(super) fn seal(lines: &str) -> String {
    let checksum = crc32c::crc32c(lines.as_bytes());
    format!("{lines}crc32c {checksum:#010x}\n")
}

/// The lines, if they match their checksum.
pub(super) fn unseal(content: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(content).ok()?;
    let lines_bytes = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (lines, last) = text.split_at(lines_bytes);
    let checksum = hex(last.strip_suffix('\n')?, "crc32c 0x")?;
    (checksum == u64::from(crc32c::crc32c(lines.as_bytes()))).then_some(lines)
}

pub(super) fn hex(line: &str, prefix: &str) -> Option<u64> {
    u64::from_str_radix(line.strip_prefix(prefix)?, 16).ok()
}
