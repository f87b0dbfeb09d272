//! Kernel images into what a VMM boots: an uncompressed ELF `vmlinux`.
//!
//! A distribution ships a bzImage: a boot sector, a decompressor and a compressed ELF. Only the
//! last is wanted. The layout is the x86 boot protocol, 2.08 and later (`payload_offset`,
//! `payload_length`); the compression is told by its magic number. Booting is not known here.

use std::borrow::Cow;
use std::io::{self, Read};

use flate2::read::GzDecoder;
use liblzma::read::XzDecoder;

/// Longest kernel, uncompressed, in bytes.
const KERNEL_LIMIT: u64 = 512 << 20;
/// A block of the LZ4 legacy format holds at most this much, in bytes.
const LZ4_BLOCK: usize = 8 << 20;

const ELF: &[u8] = b"\x7fELF";
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Why a file is no kernel that can be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Neither an ELF file nor a bzImage.
    #[error("neither an ELF vmlinux nor a bzImage of boot protocol 2.08 or later")]
    Unknown,
    /// The bzImage's header points outside of the file.
    #[error("the bzImage is truncated")]
    Truncated,
    /// A compression that isn't known, with the first bytes of the payload.
    #[error("the bzImage has a payload of unknown compression, magic {0}")]
    Compression(String),
    /// The payload is damaged.
    #[error("cannot decompress the kernel")]
    Damaged(#[source] io::Error),
    /// The payload is no ELF file.
    #[error("the bzImage holds something else than an ELF vmlinux")]
    NotElf,
    /// The payload is larger than any kernel.
    #[error("the kernel decompresses to more than {} MiB", KERNEL_LIMIT >> 20)]
    TooLarge,
}

/// The ELF `vmlinux` in `bytes`, which are one already or a bzImage around one.
///
/// # Errors
/// When they are neither, or damaged.
pub fn vmlinux(bytes: &[u8]) -> Result<Cow<'_, [u8]>, KernelError> {
    if bytes.starts_with(ELF) {
        return Ok(Cow::Borrowed(bytes));
    }
    let payload = payload(bytes)?;
    let elf = decompress(payload)?;
    if elf.starts_with(ELF) { Ok(Cow::Owned(elf)) } else { Err(KernelError::NotElf) }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The compressed part of a bzImage (Documentation/arch/x86/boot.rst).
fn payload(bytes: &[u8]) -> Result<&[u8], KernelError> {
    let is_boot_image = number(bytes, 0x202) == Some(*b"HdrS")
        && number(bytes, 0x206).map(u16::from_le_bytes).is_some_and(|version| version >= 0x208);
    if !is_boot_image {
        return Err(KernelError::Unknown);
    }
    let find = || {
        let sectors = match bytes.get(0x1f1)? {
            0 => 4,
            count => usize::from(*count),
        };
        let offset = usize::try_from(u32::from_le_bytes(number(bytes, 0x248)?)).ok()?;
        let length = usize::try_from(u32::from_le_bytes(number(bytes, 0x24c)?)).ok()?;
        let start = (sectors + 1).checked_mul(512)?.checked_add(offset)?;
        bytes.get(start..start.checked_add(length)?)
    };
    find().ok_or(KernelError::Truncated)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    if let Some(blocks) = payload.strip_prefix(LZ4_LEGACY) {
        return lz4_legacy(blocks);
    }
    if payload.starts_with(GZIP) {
        read_all(GzDecoder::new(payload))
    } else if payload.starts_with(XZ) {
        read_all(XzDecoder::new(payload))
    } else if payload.starts_with(ZSTD) {
        let decoder = zstd::stream::read::Decoder::with_buffer(payload)
            .map_err(KernelError::Damaged)?
            .single_frame();
        read_all(decoder)
    } else {
        let magic = payload.get(..6).unwrap_or(payload);
        Err(KernelError::Compression(hex::encode(magic)))
    }
}

fn read_all(from: impl Read) -> Result<Vec<u8>, KernelError> {
    let mut out = Vec::new();
    from.take(KERNEL_LIMIT + 1).read_to_end(&mut out).map_err(KernelError::Damaged)?;
    if out.len() as u64 > KERNEL_LIMIT { Err(KernelError::TooLarge) } else { Ok(out) }
}

/// Blocks of a length and LZ4 data each. The kernel's build appends the uncompressed length as
/// one more word, which is where the blocks end.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, KernelError> {
    let damaged = |text: String| KernelError::Damaged(io::Error::other(text));
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        if tail.is_empty() {
            return Ok(out);
        }
        let length = u32::from_le_bytes(*length) as usize;
        let data = tail.get(..length).ok_or(KernelError::Truncated)?;
        let count = lz4_flex::block::decompress_into(data, &mut block)
            .map_err(|error| damaged(error.to_string()))?;
        out.extend_from_slice(block.get(..count).unwrap_or_default());
        if out.len() as u64 > KERNEL_LIMIT {
            return Err(KernelError::TooLarge);
        }
        rest = tail.get(length..).unwrap_or_default();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    fn elf() -> Vec<u8> {
        let mut bytes = ELF.to_vec();
        bytes.extend((0..9_000_000_u32).map(|i| (i >> 10) as u8));
        bytes
    }

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        let mut put = |at: usize, data: &[u8]| {
            bytes.get_mut(at..at + data.len()).unwrap().copy_from_slice(data)
        };
        put(0x1f1, &[1]);
        put(0x202, b"HdrS");
        put(0x206, &0x20f_u16.to_le_bytes());
        put(0x248, &16_u32.to_le_bytes());
        put(0x24c, &u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend([0xaa; 16]);
        bytes.extend(payload);
        bytes.extend([0xbb; 100]);
        bytes
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        let mut out = LZ4_LEGACY.to_vec();
        for chunk in data.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(chunk);
            out.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            out.extend(block);
        }
        out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        out
    }

    #[test]
    fn the_elf_comes_out_of_every_compression() {
        use std::io::Write;
        let elf = elf();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&elf).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&elf).unwrap();
        let mut zst = zstd::encode_all(&elf[..], 1).unwrap();
        zst.extend(u32::try_from(elf.len()).unwrap().to_le_bytes());
        for payload in [lz4(&elf), gz.finish().unwrap(), xz.finish().unwrap(), zst] {
            assert!(vmlinux(&bz_image(&payload)).unwrap() == elf);
        }
        assert!(vmlinux(&elf).unwrap() == elf);
    }

    #[test]
    fn what_is_no_kernel_is_an_error() {
        assert!(matches!(vmlinux(b"#!/bin/sh"), Err(KernelError::Unknown)));
        assert!(matches!(vmlinux(&bz_image(b"\x01\x02")), Err(KernelError::Compression(_))));
        assert!(matches!(vmlinux(&bz_image(&lz4(b"text"))), Err(KernelError::NotElf)));
        let image = bz_image(&lz4(&elf()));
        let short = image.get(..image.len() - 200).unwrap();
        assert!(matches!(vmlinux(short), Err(KernelError::Truncated)));
    }

    #[test]
    fn a_block_that_lies_about_its_length_is_an_error() {
        let mut payload = lz4(&elf());
        payload.get_mut(4..8).unwrap().copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(vmlinux(&bz_image(&payload)), Err(KernelError::Truncated)));
        let mut payload = lz4(&elf());
        payload.get_mut(8..2000).unwrap().fill(0xff);
        assert!(vmlinux(&bz_image(&payload)).is_err());
    }
}
