//! Returns memory to the kernel that was needed only at the start: read-only pages of the program file, and free heap.
//!
//! Law: only pages that the kernel can read again from the file are released. A later access reads a page again by a page fault.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// The largest block that [`gather`] replaces, bytes.
const SMALL: usize = 264;
/// The number of free blocks of each size that the C library caches for each thread.
const KEPT: usize = 7;

/// Replaces the small free blocks that the C library caches for this thread. The cached blocks lie wherever they were freed, each on a
/// page that may hold nothing else; the new ones lie in the smallest gaps that fit.
pub fn gather() {
    let some = || -> Vec<Vec<u8>> {
        let sizes = (24..=SMALL).step_by(16);
        sizes
            .flat_map(|size| std::iter::repeat_n(size, KEPT))
            .map(|size| std::hint::black_box(Vec::with_capacity(size)))
            .collect()
    };
    let kept = some();
    drop(some());
    drop(kept);
}

/// Releases read-only pages of files and free heap to the kernel. May take a millisecond.
pub fn trim() -> io::Result<()> {
    gather();
    for range in of_files(BufReader::new(File::open("/proc/self/smaps")?))? {
        let start = std::ptr::without_provenance_mut::<c_void>(range.start);
        // SAFETY: the mapping is of a file, not writable, and has no private page, so each page is read back from the file unchanged.
        // The mappings of the program and of its libraries stay where they are.
        let _ = unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) };
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: the argument is a number, and malloc_trim takes the allocator's locks.
    unsafe {
        libc::malloc_trim(0);
    }
    Ok(())
}

/// The mappings of programs and libraries that are not writable and have no page but those of the file, see
/// proc_pid_smaps(5). A mapping that relocation or a debugger wrote to has private pages, in memory or in swap.
fn of_files(mut smaps: impl BufRead) -> io::Result<Vec<Range<usize>>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut current = None;
    let mut line = String::new();
    while smaps.read_line(&mut line)? > 0 {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        match first.strip_suffix(':') {
            None => current = mapping(first, &mut words),
            Some("Anonymous") if words.next() != Some("0") => current = None,
            // `Swap` is the last of the relevant fields of a mapping.
            Some("Swap") if words.next() == Some("0") => found.extend(current.take()),
            Some(_) => {}
        }
        line.clear();
    }
    Ok(found)
}

/// Parses `START-END r-xp OFFSET DEVICE INODE PATH`; `None` unless the mapping is private, readable, not writable, and of a file.
fn mapping<'a>(range: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<Range<usize>> {
    let (start, end) = range.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let rights = words.next()?;
    let is_private_and_read = rights.starts_with('r') && rights.contains("-") && !rights.contains('w') && rights.ends_with('p');
    let path = words.nth(3)?;
    (is_private_and_read && path.starts_with('/')).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_file_can_give_again() {
        let smaps = "\
            1000-3000 r--p 00000000 fe:00 7 /usr/bin/ratoon\nRss: 8 kB\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd mr mw me\n\
            3000-9000 r-xp 00002000 fe:00 7 /usr/bin/ratoon\nRss: 24 kB\nAnonymous: 0 kB\nSwap: 0 kB\n\
            9000-a000 r--p 00008000 fe:00 7 /usr/bin/ratoon\nRss: 4 kB\nAnonymous: 4 kB\nSwap: 0 kB\n\
            8000-9000 r--p 00008000 fe:00 7 /usr/bin/swapped\nRss: 0 kB\nAnonymous: 0 kB\nSwap: 4 kB\n\
            a000-b000 rw-p 00009000 fe:00 7 /usr/bin/ratoon\nAnonymous: 0 kB\nSwap: 0 kB\n\
            b000-c000 rw-p 00000000 00:00 0 [heap]\nAnonymous: 0 kB\nSwap: 0 kB\n\
            c000-d000 r--p 00000000 00:00 0 [vvar]\nAnonymous: 0 kB\nSwap: 0 kB\n\
            d000-e000 r-xp 00000000 00:00 0 [vdso]\nAnonymous: 0 kB\nSwap: 0 kB\n\
            e000-f000 ---p 00000000 00:00 0\nAnonymous: 0 kB\nSwap: 0 kB\n\
            f000-10000 r--s 00000000 fe:00 9 /shared\nAnonymous: 0 kB\nSwap: 0 kB\n";
        assert_eq!(of_files(smaps.as_bytes()).unwrap(), [0x1000..0x3000, 0x3000..0x9000]);
    }

    /// Resident pages of files of this process (`RssFile`), KiB.
    fn mapped() -> usize {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_is_needed_comes_back() {
        // Other tests of this process access pages of the file meanwhile, so try until the effect is seen.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let before = mapped();
            trim().unwrap();
            if mapped() < before {
                break;
            }
            assert!(std::time::Instant::now() < until, "nothing was let go of: {before} KiB");
        }
        // Literals and code are unchanged.
        assert_eq!(format!("{:?}", Some("as it was")), "Some(\"as it was\")");
    }
}
