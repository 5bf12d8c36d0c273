//! Requests of pagestream 2 and 3: a request that decodes is answered by frames that echo it exactly.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pageserver::pagestream::codec::{self, Version};
use pageserver::pagestream::frames::next_frame;

fuzz_target!(|message: &[u8]| {
    for version in [Version::V2, Version::V3] {
        let Ok(request) = codec::decode(version, message) else {
            continue;
        };
        let echo = if version == Version::V3 {
            &message[1..]
        } else {
            &[]
        };
        let mut out = Vec::new();
        codec::put_nblocks(&mut out, &request.echo, 7);
        let frame = next_frame(&out, 1 << 20)
            .expect("well formed")
            .expect("whole");
        assert_eq!((frame.tag, frame.consumed_bytes), (b'd', out.len()));
        assert_eq!(frame.body, [&[101], echo, &7_u32.to_be_bytes()].concat());

        let mut out = Vec::new();
        codec::put_error(&mut out, &request.echo, "gone\0away");
        let frame = next_frame(&out, 1 << 20)
            .expect("well formed")
            .expect("whole");
        assert_eq!(frame.body.first(), Some(&103));
        assert_eq!(
            frame.body.last(),
            Some(&0),
            "an error's text ends with a NUL"
        );
    }
});
