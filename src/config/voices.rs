//! Voices: which OpenAI has, which Kokoro has, and what stands in for one where only the other is.
//!
//! No two of them sound the same. A stand-in keeps what a listener notices first: whether a woman
//! or a man speaks, and with which accent.

/// OpenAI's voices (openai-python 3.54 `types/audio/speech_create_params.py`).
pub(crate) const OPENAI: &[&str] = &[
    "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse",
    "marin", "cedar",
];

/// Those that `tts-1` and `tts-1-hd` know too; they refuse the others with 400 (OpenAI's
/// text-to-speech guide; anasfik/openai issue 224 shows the refusal).
#[cfg(test)]
pub(crate) const OPENAI_CLASSIC: &[&str] = &[
    "alloy", "ash", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer",
];

/// The Kokoro voice that stands in for one of OpenAI's.
///
/// Its namesake where there is one, else one of the same gender and a like character with a good
/// grade (hexgrad/Kokoro-82M VOICES.md). Kokoro-FastAPI's own table (`openai_mappings.json`) knows
/// nine of them and gives men's names to women, so it is not followed.
pub(crate) fn openai_to_kokoro(voice: &str) -> Option<&'static str> {
    Some(match voice {
        "alloy" => "af_alloy",
        "ash" => "am_michael",
        "ballad" => "bm_george",
        "coral" => "af_bella",
        "echo" => "am_echo",
        "fable" => "bm_fable",
        "onyx" => "am_onyx",
        "nova" => "af_nova",
        "sage" => "af_sarah",
        "shimmer" => "af_sky",
        "verse" => "am_puck",
        "marin" => "af_heart",
        "cedar" => "am_fenrir",
        _ => return None,
    })
}

/// The OpenAI voice that stands in for a Kokoro voice, or for the one that is heard most in a mix
/// of them such as `af_bella(2)+af_sky`; always one of [`OPENAI_CLASSIC`]. `None` for what no
/// Kokoro server would take for a voice.
pub(crate) fn kokoro_to_openai(voice: &str) -> Option<&'static str> {
    let mut heaviest: Option<(&str, f64)> = None;
    let mut rest = voice;
    let mut added = true;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let (name, weight) = component(&rest[..end])?;
        // what is subtracted is not heard
        if added && heaviest.is_none_or(|(_, most)| weight > most) {
            heaviest = Some((name, weight));
        }
        let Some(operator) = rest[end..].chars().next() else {
            break;
        };
        added = operator == '+';
        rest = &rest[end + 1..];
    }
    heaviest.and_then(|(name, _)| stand_in(name))
}

/// Name and weight of one part of a mix: `af_sky`, `af_sky(0.5)`. Spaces do not count
/// (Kokoro-FastAPI `process_and_validate_voices`, `get_voices_path`).
fn component(text: &str) -> Option<(&str, f64)> {
    let (name, weight) = match text.split_once('(') {
        Some((name, weight)) => {
            let weight: f64 = weight.trim_end().strip_suffix(')')?.trim().parse().ok()?;
            (name, weight)
        }
        None => (text, 1.0),
    };
    let name = name.trim();
    stand_in(name)?;
    (weight.is_finite() && weight >= 0.0).then_some((name, weight))
}

/// Kokoro's names begin with the language (`a` American, `b` British English, `e` Spanish,
/// `f` French, `h` Hindi, `i` Italian, `j` Japanese, `p` Portuguese, `z` Mandarin) and the gender
/// (VOICES.md). Each of OpenAI's voices speaks every language.
fn stand_in(name: &str) -> Option<&'static str> {
    let (prefix, own) = name.split_once('_')?;
    let well_formed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if own.is_empty() || !own.bytes().all(well_formed) {
        return None;
    }
    let [language, gender] = *prefix.as_bytes() else {
        return None;
    };
    Some(match (language, gender, own) {
        (b'a', b'f', "alloy") => "alloy",
        (b'a', b'm', "echo") => "echo",
        // the rest as voice-mode does it (`simple_failover.py`): women are nova, men are onyx
        (b'b', b'f', _) => "shimmer",
        (b'b', b'm', _) => "fable",
        (b'a' | b'e' | b'f' | b'h' | b'i' | b'j' | b'p' | b'z', b'f', _) => "nova",
        (b'a' | b'e' | b'f' | b'h' | b'i' | b'j' | b'p' | b'z', b'm', _) => "onyx",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kind::Kind;

    /// What Kokoro-FastAPI 0.8 lists at `/v1/audio/voices`.
    const KOKORO: &str = "af_alloy af_aoede af_bella af_heart af_jadzia af_jessica af_kore \
        af_nicole af_nova af_river af_sarah af_sky af_v0 af_v0bella af_v0irulan af_v0nicole \
        af_v0sarah af_v0sky am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck \
        am_santa am_v0adam am_v0gurney am_v0michael bf_alice bf_emma bf_isabella bf_lily bf_v0emma \
        bf_v0isabella bm_daniel bm_fable bm_george bm_lewis bm_v0george bm_v0lewis ef_dora em_alex \
        em_santa ff_siwis hf_alpha hf_beta hm_omega hm_psi if_sara im_nicola jf_alpha \
        jf_gongitsune jf_nezumi jf_tebukuro jm_kumo pf_dora pm_alex pm_santa zf_xiaobei zf_xiaoni \
        zf_xiaoxiao zf_xiaoyi zm_yunjian zm_yunxi zm_yunxia zm_yunyang";

    fn kokoro() -> impl Iterator<Item = &'static str> {
        KOKORO.split_ascii_whitespace()
    }

    #[test]
    fn every_voice_of_openai_has_a_stand_in_that_leads_back_to_one() {
        for voice in OPENAI {
            let stand_in = openai_to_kokoro(voice).unwrap();
            assert!(kokoro().any(|known| known == stand_in), "{stand_in}");
            let back = kokoro_to_openai(stand_in).unwrap();
            assert!(OPENAI.contains(&back), "{voice} {stand_in} {back}");
        }
    }

    #[test]
    fn every_voice_of_kokoro_has_a_stand_in_that_the_older_models_know() {
        assert_eq!(kokoro().count(), 68);
        for voice in kokoro() {
            let stand_in = kokoro_to_openai(voice).unwrap();
            assert!(OPENAI_CLASSIC.contains(&stand_in), "{voice} {stand_in}");
        }
        assert!(OPENAI_CLASSIC.iter().all(|voice| OPENAI.contains(voice)));
    }

    #[test]
    fn what_the_kind_takes_for_kokoro_is_understood_here() {
        for pattern in Kind::Kokoro.traits().voices {
            let voice = pattern.replace('*', "somebody");
            assert!(kokoro_to_openai(&voice).is_some(), "{pattern}");
        }
    }

    #[test]
    fn namesakes_come_first_then_accent_and_gender() {
        for (voice, stand_in) in [
            ("af_alloy", "alloy"),
            ("af_nova", "nova"),
            ("am_echo", "echo"),
            ("am_onyx", "onyx"),
            ("bm_fable", "fable"),
            ("af_sky", "nova"),
            ("am_adam", "onyx"),
            ("bf_emma", "shimmer"),
            ("bm_george", "fable"),
            ("jf_alpha", "nova"),
            ("zm_yunxi", "onyx"),
            ("am_price_inno", "onyx"),
        ] {
            assert_eq!(kokoro_to_openai(voice), Some(stand_in), "{voice}");
        }
    }

    #[test]
    fn a_mix_sounds_like_its_heaviest_part() {
        for (mix, stand_in) in [
            ("af_bella(2)+bf_emma", "nova"),
            ("af_bella+bf_emma", "nova"),
            ("bf_emma+af_bella", "shimmer"),
            ("af_bella(1)+bm_george(1.5)+bf_emma", "fable"),
            ("af_bella(0.3)+am_echo(.7)", "echo"),
            ("af_bella + am_echo (2)", "echo"),
            ("af_bella-am_echo(5)", "nova"),
            ("af_bella(0.5)-am_onyx(3)+am_echo", "echo"),
            ("am_echo(3)", "echo"),
        ] {
            assert_eq!(kokoro_to_openai(mix), Some(stand_in), "{mix}");
        }
    }

    #[test]
    fn what_is_no_voice_has_no_stand_in() {
        for junk in [
            "",
            " ",
            "_",
            "af_",
            "af",
            "_sky",
            "alloy",
            "AF_SKY",
            "xf_sky",
            "ax_sky",
            "afx_sky",
            "é_sky",
            "af_ské",
            "af sky",
            "af_sky+",
            "+af_sky",
            "-",
            "af_sky++af_bella",
            "af_sky+alloy",
            "af_sky(",
            "af_sky)",
            "af_sky()",
            "af_sky(2",
            "af_sky(2))",
            "af_sky((2)",
            "af_sky(x)",
            "af_sky(NaN)",
            "af_sky(inf)",
            "af_sky(-1)",
            "(2)",
            "af_sky(2)x",
            "voice_1234",
            "🎙️_🎙️",
            "af_🎙️+af_sky",
        ] {
            assert_eq!(kokoro_to_openai(junk), None, "{junk}");
        }
        for junk in ["", "Alloy", "af_sky", "alloy ", "🎙️"] {
            assert_eq!(openai_to_kokoro(junk), None, "{junk}");
        }
    }

    #[test]
    fn no_text_breaks_it() {
        let pieces = [
            "af_", "sky", "+", "-", "(", ")", "2", ".", " ", "é", "🎙", "_", "e9", "alloy",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let count = random.usize(..8);
            let text: String = (0..count).filter_map(|_| random.choice(pieces)).collect();
            kokoro_to_openai(&text);
            openai_to_kokoro(&text);
        }
    }
}
