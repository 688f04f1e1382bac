//! Pages, compressed for clients that ask for it. Streams are not: a coding holds records back until it has enough.

use async_compression::Level;
use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use bytes::Bytes;
use tokio::io::AsyncReadExt as _;

use crate::http::extract::Coding;
use crate::limits;

/// Compresses a page, or leaves it as it is where that gains nothing. Says which.
pub(super) async fn encode(page: Bytes, coding: Option<Coding>) -> (Bytes, Option<Coding>) {
    let Some(coding) = coding.filter(|_| page.len() >= limits::COMPRESS_BYTES_MIN) else {
        return (page, None);
    };
    let plain = page.clone();
    // It takes milliseconds per megabyte, in which nobody else would be served.
    let runtime = tokio::runtime::Handle::current();
    let encoded = tokio::task::spawn_blocking(move || runtime.block_on(compress(&plain, coding))).await;
    match encoded {
        Ok(Ok(encoded)) if encoded.len() < page.len() => (encoded.into(), Some(coding)),
        _ => (page, None),
    }
}

async fn compress(plain: &[u8], coding: Coding) -> std::io::Result<Vec<u8>> {
    let mut encoded = Vec::with_capacity(plain.len() / 4);
    match coding {
        Coding::Zstd => ZstdEncoder::with_quality(plain, Level::Fastest).read_to_end(&mut encoded).await?,
        Coding::Gzip => GzipEncoder::with_quality(plain, Level::Fastest).read_to_end(&mut encoded).await?,
    };
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::ZstdDecoder;

    use super::*;

    #[tokio::test]
    async fn what_is_compressed_comes_back_and_what_gains_nothing_stays() {
        let page = Bytes::from("{\"value\":1}\n".repeat(1000));
        let (encoded, coding) = encode(page.clone(), Some(Coding::Zstd)).await;
        let mut decoded = Vec::new();
        ZstdDecoder::new(&encoded[..]).read_to_end(&mut decoded).await.unwrap();
        assert_eq!((coding, &decoded[..]), (Some(Coding::Zstd), &page[..]));
        let (encoded, coding) = encode(page.clone(), Some(Coding::Gzip)).await;
        assert_eq!((coding, &encoded[..2]), (Some(Coding::Gzip), &[0x1f, 0x8b][..]));
        assert_eq!(encode(page.clone(), None).await, (page, None));
        let short = Bytes::from_static(b"[]");
        assert_eq!(encode(short.clone(), Some(Coding::Gzip)).await, (short, None));
    }
}
