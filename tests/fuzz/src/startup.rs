//! A whole connection, byte by byte: encryption requests, startup, password, commands. It never takes more than it was
//! given, always moves on, and whatever it answers is well-formed frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pageserver::pagestream::frames::next_frame;
use pageserver::pagestream::session::{self, Session};
use pageserver::pagestream::startup::{Access, Next, Startup};

fuzz_target!(|input: (bool, bool, &[u8])| {
    let (with_password, with_tls, mut received) = input;
    let password = with_password.then(|| "secret".to_owned().into());
    let mut startup = Startup::new(Access::new(password, with_tls, false));
    loop {
        let mut out = Vec::new();
        let Ok((used, next)) = startup.packet(received, &mut out) else {
            return;
        };
        assert!(used <= received.len());
        received = &received[used..];
        match next {
            Next::More if used == 0 => return,
            Next::More => {}
            Next::StartTls => {
                assert!(with_tls, "TLS is accepted only where it is offered");
                startup.tls_started();
            }
            Next::Open => break,
            Next::Close => return,
        }
    }
    let mut session = Session::default();
    while let Ok(Some(frame)) = next_frame(received, 8192) {
        let mut out = Vec::new();
        let next = session.message(frame, &mut out);
        let mut answers = &out[..];
        while !answers.is_empty() {
            let answer = next_frame(answers, 1 << 20)
                .expect("well formed")
                .expect("whole");
            answers = &answers[answer.consumed_bytes..];
        }
        match next {
            Ok(session::Next::More) => received = &received[frame.consumed_bytes..],
            Ok(session::Next::Pagestream(_) | session::Next::Close) | Err(_) => return,
        }
    }
});
