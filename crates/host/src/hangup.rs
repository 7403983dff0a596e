//! Whether the parent process set SIGHUP to be ignored. `nohup` does so, and a handler would undo it.

/// Returns whether this process started with SIGHUP ignored, and false if `/proc` does not show it.
///
/// Call it before a handler for SIGHUP is installed.
#[must_use]
pub fn hangup_is_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// Reads the line `SigIgn` of `/proc/self/status`: a mask in hexadecimal. SIGHUP is signal 1 and so the lowest bit.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_of_the_mask_decides() {
        for (mask, ignored) in
            [("0000000000000001", true), ("0000000001001003", true), ("0000000001001000", false)]
        {
            assert_eq!(
                ignores_hangup(&format!("Name:\tx\nSigIgn:\t{mask}\nSigCgt:\t1\n")),
                ignored,
                "{mask}"
            );
        }
        assert!(!ignores_hangup("") && !ignores_hangup("SigIgn:\tnone\n"));
    }
}
