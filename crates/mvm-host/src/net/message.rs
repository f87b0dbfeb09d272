//! Netlink's messages as bytes: requests written, answers read.
//!
//! A request is a kind, a fixed header and attributes, written by hand: the two dozen attributes
//! used here are fewer than what a typed library must know of every foreign device to get past it
//! in a dump, and one unknown attribute of somebody else's interface never hides ours.
//!
//! It opens no socket. Next: [`super::netlink`].

/// The size of netlink's own header.
pub(super) const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 0x01;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Replace what is there.
pub(super) const REPLACE: u16 = 0x100;
/// Fail with `EEXIST` when it is there.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// Make it when it is not there.
pub(super) const CREATE: u16 = 0x400;

/// Attributes in the order they are sent.
#[derive(Debug, Default, Clone)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// A text with its closing zero byte.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut text = value.as_bytes().to_vec();
        text.push(0);
        self.bytes(kind, &text)
    }

    pub(super) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// One request: message kind, flags, the family's fixed header, attributes.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) fixed: Vec<u8>,
    pub(super) attributes: Attributes,
}

impl Request {
    /// Appends the message.
    pub(super) fn write(&self, flags: u16, sequence: u32, out: &mut Vec<u8>) {
        let length = HEADER + aligned(self.fixed.len()) + self.attributes.0.len();
        let start = out.len();
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.fixed);
        out.resize(start + HEADER + aligned(self.fixed.len()), 0);
        out.extend_from_slice(&self.attributes.0);
    }
}

#[cfg(test)]
impl Request {
    /// What follows netlink's header, as in a listing of what this request makes.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(0, 0, &mut out);
        out.split_off(HEADER)
    }
}

/// One message of an answer, without netlink's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The attributes after a fixed header of `fixed` bytes.
    pub(super) fn attributes(&self, fixed: usize) -> Reader<'_> {
        Reader(self.body.get(aligned(fixed)..).unwrap_or_default())
    }

    /// The 32 bits at `at` of the fixed header.
    pub(super) fn u32_at(&self, at: usize) -> Option<u32> {
        self.body.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
    }
}

/// Walks attributes; stops at the first that does not fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The value of the first attribute of this kind.
    pub(super) fn value(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        self.value(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    pub(super) fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.value(kind)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }

    pub(super) fn nested(self, kind: u16) -> Option<Self> {
        self.value(kind).map(Self)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = (u16, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Kind, flags, sequence number and body of a message, and what follows it.
type Split<'a> = (u16, u16, u32, &'a [u8], &'a [u8]);

/// Takes the first message off a datagram; none when it does not fit.
pub(super) fn split(datagram: &[u8]) -> Option<Split<'_>> {
    let length = usize::try_from(u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(datagram.get(6..8)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(datagram.get(8..12)?.try_into().ok()?);
    let body = datagram.get(HEADER..length)?;
    Some((kind, flags, sequence, body, datagram.get(aligned(length)..).unwrap_or_default()))
}

/// The next multiple of four: attributes and messages are padded to it.
pub(super) const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    const NLM_F_ACK: u16 = 0x04;

    #[test]
    fn what_is_written_is_read_back() {
        let inner = Attributes::default().u8(4, 9).text(5, "bridge");
        let attributes = Attributes::default().u32(1, 7).nested(2, &inner).text(3, "tn3i4");
        let request = Request { kind: 16, flags: 0, fixed: vec![0; 16], attributes };
        let mut out = Vec::new();
        request.write(NLM_F_ACK, 3, &mut out);
        let (kind, flags, sequence, body, rest) = split(&out).unwrap();
        assert_eq!((kind, flags, sequence, rest.len()), (16, NLM_F_REQUEST | NLM_F_ACK, 3, 0));
        let reader = Message { kind, body: body.to_vec() };
        assert_eq!(reader.attributes(16).u32(1), Some(7));
        assert_eq!(reader.attributes(16).text(3), Some("tn3i4"));
        let nested = reader.attributes(16).nested(2).unwrap();
        assert_eq!((nested.value(4), nested.text(5)), (Some([9].as_slice()), Some("bridge")));
    }
}
