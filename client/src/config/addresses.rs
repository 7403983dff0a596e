//! Parses `--local-ips`, the addresses to open sockets from. Whether this machine has them is checked before the run.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Largest number of addresses.
const MAX_ADDRESSES: usize = 65_536;

/// Parses addresses, `FIRST-LAST` and `ADDRESS/PREFIX`, separated by commas. Returns each address once, in order.
///
/// # Errors
/// Names the part that is invalid, or with which there are too many addresses.
pub(super) fn parse(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = range(part).ok_or_else(|| {
            format!("invalid address \"{part}\": expected ADDRESS, FIRST-LAST or ADDRESS/PREFIX, for example 127.0.0.2-127.0.0.9")
        })?;
        if first.0 > last.0 {
            let (first, last) = (address(first.0, first.1), address(last.0, last.1));
            return Err(format!("`{part}` starts at {first}, after its end {last}: write {last}-{first}"));
        }
        if last.0 - first.0 >= (MAX_ADDRESSES - addresses.len()) as u128 {
            return Err(format!("with `{part}` there are more than {MAX_ADDRESSES} addresses: remove some"));
        }
        addresses.extend((first.0..=last.0).map(|number| address(number, first.1)));
    }
    Ok(addresses.into_iter().collect())
}

/// An address as a number, and whether it is an IPv4 address.
type Numbered = (u128, bool);

/// Returns the first and the last address of a part. They may be in the wrong order.
fn range(part: &str) -> Option<(Numbered, Numbered)> {
    if let Some((first, last)) = part.split_once('-') {
        let (first, last) = (number(first)?, number(last)?);
        return (first.1 == last.1).then_some((first, last));
    }
    let Some((base, prefix)) = part.split_once('/') else { return number(part).map(|one| (one, one)) };
    let (base, is_v4) = number(base)?;
    let host_bits = (if is_v4 { 32u32 } else { 128 }).checked_sub(prefix.parse().ok()?)?;
    let hosts = 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
    Some(((base & !hosts, is_v4), (base | hosts, is_v4)))
}

fn number(text: &str) -> Option<Numbered> {
    match text.trim().parse().ok()? {
        IpAddr::V4(address) => Some((u128::from(address.to_bits()), true)),
        IpAddr::V6(address) => Some((address.to_bits(), false)),
    }
}

fn address(number: u128, is_v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if is_v4 => Ipv4Addr::from_bits(number).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_ranges_and_networks() {
        let shown =
            |text| parse(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(shown("127.0.0.1"), Ok("127.0.0.1".into()));
        assert_eq!(shown("127.0.0.2-127.0.0.4, ::1"), Ok("127.0.0.2 127.0.0.3 127.0.0.4 ::1".into()));
        assert_eq!(shown("127.0.0.2,127.0.0.2"), Ok("127.0.0.2".into()), "none has its ports twice");
        assert_eq!(shown("127.0.1.6/31"), Ok("127.0.1.6 127.0.1.7".into()));
        assert_eq!(shown("fd00::4/127"), Ok("fd00::4 fd00::5".into()));
        assert_eq!(parse("127.0.0.0/16").map(|all| all.len()), Ok(MAX_ADDRESSES));
        for bad in ["x", "127.0.0.1-::1", "127.0.0.1/33", "127.0.0.1/", "1.2.3.4-"] {
            assert!(parse(bad).unwrap_err().starts_with(&format!("invalid address \"{bad}\"")), "{bad}");
        }
        for (backwards, right) in [
            (
                "127.0.0.9-127.0.0.2",
                "starts at 127.0.0.9, after its end 127.0.0.2: write 127.0.0.2-127.0.0.9",
            ),
            ("127.0.0.1,::2 - ::1", "starts at ::2, after its end ::1: write ::1-::2"),
        ] {
            assert!(parse(backwards).unwrap_err().ends_with(right), "{:?}", parse(backwards));
        }
        for much in ["10.0.0.0/8", "::/0", "127.0.0.1,::/0", "127.0.0.0/16,127.1.0.0"] {
            assert!(parse(much).unwrap_err().contains("65536"), "{much}");
        }
    }
}
