//! As much of WAV as is needed to hear whether there is sound.

/// Samples of the tone a second.
const RATE: u32 = 16_000;

/// How long a WAV file is, by the bytes that came: servers that stream do not know the length when
/// they write the head. `None` if it is no WAV file.
pub(super) fn seconds(file: &[u8]) -> Option<f64> {
    if file.get(..4)? != b"RIFF" || file.get(8..12)? != b"WAVE" {
        return None;
    }
    let mut rate = None;
    let mut rest = &file[12..];
    loop {
        let (name, size) = (rest.get(..4)?, rest.get(4..8)?);
        let size = u32::from_le_bytes(size.try_into().ok()?) as usize;
        let body = &rest[8..];
        match name {
            b"fmt " => {
                let bytes = body.get(8..12)?.try_into().ok()?;
                rate = Some(u32::from_le_bytes(bytes)).filter(|rate| *rate > 0);
            }
            b"data" => return Some(size.min(body.len()) as f64 / f64::from(rate?)),
            _ => {}
        }
        rest = body.get(size + size % 2..)?;
    }
}

/// A second of a tone, for a transcription without speech before it.
pub(super) fn tone() -> Vec<u8> {
    let samples = (0..RATE).flat_map(|n| {
        let phase = f64::from(n) / f64::from(RATE) * 440.0 * std::f64::consts::TAU;
        ((phase.sin() * 8000.0) as i16).to_le_bytes()
    });
    let data: Vec<u8> = samples.collect();
    let length = RATE * 2;
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + length).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16u32.to_le_bytes());
    // PCM, one channel
    file.extend_from_slice(&[1, 0, 1, 0]);
    file.extend_from_slice(&RATE.to_le_bytes());
    file.extend_from_slice(&(RATE * 2).to_le_bytes());
    // two bytes a sample
    file.extend_from_slice(&[2, 0, 16, 0]);
    file.extend_from_slice(b"data");
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&data);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_long_as_its_sound() {
        assert_eq!(seconds(&tone()), Some(1.0));
        let mut streamed = tone();
        streamed[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(seconds(&streamed), Some(1.0));
        assert_eq!(seconds(&tone()[..44]), Some(0.0));
        for other in [&b""[..], b"ID3", &tone()[..30]] {
            assert_eq!(seconds(other), None);
        }
    }
}
