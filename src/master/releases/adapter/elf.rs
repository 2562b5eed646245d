//! Programs for which the loader ignores `LD_PRELOAD` (ld.so(8)).

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Bytes of an ELF header, and of a program header.
const HEADER: usize = 64;
const PROGRAM_HEADER: u64 = 56;
/// The type of the program header that names the loader.
const PT_INTERP: u32 = 3;

/// Why the loader does not load a library into this executable; `None` if it does, or if that cannot be known. Blocks.
pub(super) fn ignores_preload(path: &Path) -> Option<&'static str> {
    let mut file = File::open(path).ok()?;
    let stat = file.metadata().ok()?;
    let mut header = [0; HEADER];
    file.read_exact(&mut header).ok()?;
    if header[..5] != *b"\x7fELF\x02" {
        return None;
    }
    if stat.mode() & 0o6000 != 0 {
        return Some("it is set-user-ID or set-group-ID");
    }
    let mut room = [0; 64];
    if rustix::fs::getxattr(path, "security.capability", &mut room).is_ok() {
        return Some("it has file capabilities");
    }
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let at = u64::from_ne_bytes(header[32..40].try_into().ok()?);
    let names_a_loader = |number: u16| {
        let mut kind = [0; 4];
        let at = at.checked_add(u64::from(number) * PROGRAM_HEADER);
        at.is_some_and(|at| file.read_exact_at(&mut kind, at).is_ok()) && u32::from_ne_bytes(kind) == PT_INTERP
    };
    (!(0..word(56)).any(names_a_loader)).then_some("it is statically linked")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn ignores_preload_tells_dynamic_from_set_user_id_programs() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("sleep");
        std::fs::copy("/bin/sleep", &program).unwrap();
        assert_eq!(ignores_preload(&program), None);
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
        assert_eq!(ignores_preload(&program), Some("it is set-user-ID or set-group-ID"));
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        // Without the program header of the loader it is as a static one.
        let mut bytes = std::fs::read(&program).unwrap();
        let at = usize::try_from(u64::from_ne_bytes(bytes[32..40].try_into().unwrap())).unwrap();
        for header in bytes[at..at + 13 * 56].chunks_exact_mut(56).filter(|header| header[..4] == PT_INTERP.to_ne_bytes()) {
            header[0] = 0;
        }
        std::fs::write(&program, bytes).unwrap();
        assert_eq!(ignores_preload(&program), Some("it is statically linked"));
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        assert_eq!(ignores_preload(&program), None);
    }
}
