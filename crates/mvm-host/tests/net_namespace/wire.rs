//! Frames as guests write them, well-formed and otherwise.

use std::net::Ipv4Addr;

pub(crate) type Mac = [u8; 6];

pub(crate) const BROADCAST: Mac = [0xff; 6];
/// A group whose frames a bridge handles itself (LLDP).
pub(crate) const LINK_LOCAL_GROUP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const LLDP: u16 = 0x88cc;

pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.as_slice(), from.as_slice(), &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Payload of an ARP message: 1 asks, 2 answers.
pub(crate) fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        [0, 1, 8, 0, 6, 4].as_slice(),
        &operation.to_be_bytes(),
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    ]
    .concat()
}

/// An IPv4 packet with UDP in it; UDP's checksum is left out, as IPv4 permits.
pub(crate) fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap();
    let datagram = [
        from.1.to_be_bytes().as_slice(),
        &to.1.to_be_bytes(),
        &length.to_be_bytes(),
        &[0, 0],
        data,
    ]
    .concat();
    ipv4(17, from.0, to.0, &datagram)
}

/// An IPv4 packet with a TCP SYN.
pub(crate) fn tcp_syn(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut segment = [
        from.1.to_be_bytes().as_slice(),
        &to.1.to_be_bytes(),
        &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0],
    ]
    .concat();
    let pseudo = [from.0.octets().as_slice(), &to.0.octets(), &[0, 6, 0, 20], &segment].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    segment.splice(16..18, sum);
    ipv4(6, from.0, to.0, &segment)
}

/// An IPv4 packet with an ICMP echo request.
pub(crate) fn ping(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0, 1, 0, 1];
    let sum = checksum(&message).to_be_bytes();
    message.splice(2..4, sum);
    ipv4(1, from, to, &message)
}

/// An IPv6 packet between two link-local addresses, with nothing in it.
pub(crate) fn empty_ipv6() -> Vec<u8> {
    let address = |last| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    [[0x60, 0, 0, 0, 0, 0, 59, 64].as_slice(), &address(3), &address(4)].concat()
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet.splice(10..12, sum);
    packet.extend(payload);
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}

/// Whether these bytes stand anywhere in the frame.
pub(crate) fn holds(frame: &[u8], data: &[u8]) -> bool {
    frame.windows(data.len()).any(|window| window == data)
}
