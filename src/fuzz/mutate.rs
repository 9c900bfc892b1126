//! New inputs from old ones.

use fastrand::Rng;

/// Longest input, in bytes: what is longer is only slower.
const LONGEST: usize = 8 * 1024;

/// Pieces that mean something to somebody.
const WORDS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b"\\u006d",
    b"null",
    b"true",
    b"false",
    b"-0",
    b"1e999",
    b"0.1",
    b"NaN",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"--",
    b"--XX",
    b"--XX--",
    b"\r\n--XX\r\n",
    b"\r--XX\r",
    b"\n--XX\n",
    b"\"model\"",
    b"\"Model\"",
    b"\"voice\"",
    b"\"messages\"",
    b"\"stream\"",
    b"\"instructions\"",
    b"\"id\"",
    b"data:",
    b"data: ",
    b"[DONE]",
    b"event:",
    b"; name=\"",
    b"; filename=\"a\"",
    b"Content-Disposition: form-data; name=\"model\"\r\n\r\n",
    b"../",
    b"./",
    b"//",
    b"%2e",
    b"%2f",
    b"%25",
    b"%",
    b";",
    b"*",
    b"**",
    b"_tl_",
    b"resp_",
    b"file-",
    b"msg_",
    b"RIFF",
    b"data",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"ftyp",
    b"mdat",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"\xff\xfb",
    b"Connection: ",
    b"connection: close, x-a\n",
    b"Transfer-Encoding: chunked\n",
    b"&",
    b"=",
    b"- ",
    b"  ",
    b"${A}",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!",
    b"'",
    b"#",
    b"\t",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
];

/// One of `pool`, changed in up to eight places.
pub(super) fn mutate(random: &mut Rng, pool: &[Vec<u8>]) -> Vec<u8> {
    // of two, the shorter one: what is long takes long
    let (one, other) = (some(random, pool), some(random, pool));
    let mut data = if one.len() < other.len() { one } else { other }.to_vec();
    for _ in 0..1 << random.u8(0..4) {
        change(random, &mut data, pool);
    }
    data.truncate(LONGEST);
    data
}

fn some<'a>(random: &mut Rng, pool: &'a [Vec<u8>]) -> &'a [u8] {
    random.choice(pool).map_or(&[], Vec::as_slice)
}

fn change(random: &mut Rng, data: &mut Vec<u8>, pool: &[Vec<u8>]) {
    let at = random.usize(0..=data.len());
    let end = data.len().min(at + (1 << random.u32(0..8)));
    match random.u8(0..13) {
        0 => put(data, at..at, &[random.u8(..)]),
        1 | 2 if at < data.len() => data[at] ^= 1 << random.u8(0..8),
        3 if at < data.len() => data[at] = random.u8(..),
        4 => put(data, at..end, b""),
        5 | 6 => {
            let word = random.choice(WORDS).expect("there are some");
            let over = if random.bool() {
                at
            } else {
                data.len().min(at + word.len())
            };
            put(data, at..over, word);
        }
        7 => {
            let part = data[at..end].to_vec();
            let times = 1 << random.u32(0..if part.len() > 8 { 3 } else { 11 });
            put(data, at..at, &part.repeat(times));
        }
        8 => {
            let part = data[at..end].to_vec();
            let to = random.usize(0..=data.len());
            put(data, to..to, &part);
        }
        9 => {
            let other = some(random, pool);
            let from = random.usize(0..=other.len());
            let to = random.usize(from..=other.len());
            put(data, at..end, &other[from..to]);
        }
        10 if random.u8(0..4) == 0 => data.truncate(at),
        11 => {
            let line = line(random, data);
            data.drain(line);
        }
        12 => {
            let other = some(random, pool);
            let with = other[line(random, other)].to_vec();
            let to = line(random, data).start;
            put(data, to..to, &with);
        }
        _ => {}
    }
}

/// A line, with its end.
fn line(random: &mut Rng, data: &[u8]) -> std::ops::Range<usize> {
    let at = random.usize(0..=data.len());
    let start = memchr::memrchr(b'\n', &data[..at]).map_or(0, |before| before + 1);
    let end = memchr::memchr(b'\n', &data[at..]).map_or(data.len(), |more| at + more + 1);
    start..end
}

fn put(data: &mut Vec<u8>, at: std::ops::Range<usize>, with: &[u8]) {
    data.splice(at, with.iter().copied());
}
