use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::types::{BranchId, Id, TenantId};

fn context(tenant: u8, branch: Option<u8>) -> EncryptionContext {
    EncryptionContext {
        tenant: TenantId(Id([tenant; 16])),
        branch: branch.map(|b| BranchId(Id([b; 16]))),
    }
}

fn entropy() -> Entropy {
    Entropy::seeded(42)
}

fn unwrap(
    ring: &Keyring,
    wrapped: &WrappedKek,
    context: &EncryptionContext,
) -> Result<Kek, KeyProviderError> {
    ring.unwrap_now(wrapped, context)
}

fn wrap(ring: &Keyring, kek: &Kek, context: &EncryptionContext) -> WrappedKek {
    let wrapped = ring.wrap(kek, context).now_or_never();
    wrapped.expect("a keyring does not wait").expect("wraps")
}

#[test]
fn what_is_wrapped_opens_after_restart_and_in_its_own_context_only() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("config/keyring");
    let mut ring = Keyring::create(&path, &[], entropy()).expect("creates");
    let kek = Kek::draw(&entropy());
    let old = wrap(&ring, &kek, &context(1, None));
    ring.generate().expect("a second key");
    let new = wrap(&ring, &kek, &context(1, Some(3)));
    assert_ne!(old.key_id, new.key_id, "the newest key wraps");

    let ring = Keyring::open(&path, &[], entropy()).expect("opens");
    assert!(unwrap(&ring, &old, &context(1, None)) == Ok(kek.clone()));
    assert!(unwrap(&ring, &new, &context(1, Some(3))) == Ok(kek));
    for (wrapped, other) in [
        (&old, context(2, None)),
        (&old, context(1, Some(3))),
        (&new, context(1, None)),
        (&new, context(1, Some(4))),
    ] {
        let refused = unwrap(&ring, wrapped, &other);
        assert!(matches!(refused, Err(KeyProviderError::Refused { .. })));
    }
    for bit in 0..old.bytes.len() * 8 {
        let mut bad = old.clone();
        bad.bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(unwrap(&ring, &bad, &context(1, None)).is_err(), "bit {bit}");
    }
    let mut short = old;
    short.bytes.pop();
    assert!(matches!(
        unwrap(&ring, &short, &context(1, None)),
        Err(KeyProviderError::OurFault { .. })
    ));
}

#[test]
fn an_exported_key_restores_what_a_lost_keyring_could_open() {
    let place = tempfile::tempdir().expect("a directory");
    let lost = Keyring::create(&place.path().join("lost"), &[], entropy()).expect("creates");
    let kek = Kek::draw(&entropy());
    let wrapped = wrap(&lost, &kek, &context(1, None));
    let paper = lost.export(lost.current_key_id()).expect("exports");
    assert_eq!(paper.lines().count(), 1);

    let path = place.path().join("new");
    let mut other = Keyring::create(&path, &[], Entropy::seeded(43)).expect("creates");
    assert!(matches!(
        unwrap(&other, &wrapped, &context(1, None)),
        Err(KeyProviderError::Refused { .. })
    ));
    let id = other.import(&format!("  {}\n", *paper)).expect("imports");
    assert_eq!(id, lost.current_key_id());
    other.import(&paper).expect("twice is once");
    let other = Keyring::open(&path, &[], entropy()).expect("opens");
    assert_eq!(other.key_ids().count(), 2);
    assert!(unwrap(&other, &wrapped, &context(1, None)) == Ok(kek.clone()));
    let third = place.path().join("third");
    let third = Keyring::create_from(&third, &[], entropy(), &paper).expect("creates");
    assert!(unwrap(&third, &wrapped, &context(1, None)) == Ok(kek));
    assert!(matches!(
        third.export("local-none"),
        Err(KeyringError::NoSuchKey(_))
    ));
}

#[test]
fn mistyped_keys_are_refused_without_being_shown() {
    let place = tempfile::tempdir().expect("a directory");
    let mut ring = Keyring::create(&place.path().join("ring"), &[], entropy()).expect("creates");
    let paper = ring.export(ring.current_key_id()).expect("exports");
    let digits = paper.rsplit(':').nth(1).expect("four fields").to_owned();
    for at in 0..paper.len() {
        let mut typed = paper.as_bytes().to_vec();
        typed[at] = if typed[at] == b'7' { b'8' } else { b'7' };
        let typed = String::from_utf8(typed).expect("still text");
        let error = ring.import(&typed).expect_err("mistyped");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(&digits[..16]), "{shown}");
    }
    let newer = paper.replacen("key-1", "key-2", 1);
    assert!(matches!(
        ring.import(&newer),
        Err(KeyringError::BadImport(KeyTextProblem::UnknownVersion))
    ));
    assert!(!format!("{ring:?}").contains(&digits[..16]));
}

#[test]
fn the_file_is_for_its_owner_only_and_apart_from_the_data() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("ring");
    Keyring::create(&path, &[], entropy()).expect("creates");
    let mode = |path: &Path| {
        std::fs::metadata(path)
            .expect("is there")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode(&path), 0o600);
    assert!(matches!(
        Keyring::create(&path, &[], entropy()),
        Err(KeyringError::Exists { .. })
    ));
    let names = std::fs::read_dir(place.path()).expect("lists").count();
    assert_eq!(names, 1, "no temporary files stay");

    for open_to in [0o640, 0o604, 0o660] {
        let permissions = std::fs::Permissions::from_mode(open_to);
        std::fs::set_permissions(&path, permissions).expect("chmod");
        assert!(matches!(
            Keyring::open(&path, &[], entropy()),
            Err(KeyringError::OpenToOthers { mode, .. }) if mode == open_to
        ));
    }

    let data = place.path().join("data");
    std::fs::create_dir(&data).expect("mkdir");
    std::os::unix::fs::symlink(&data, place.path().join("link")).expect("symlink");
    let inside = [
        data.join("ring"),
        data.join("deep/ring"),
        place.path().join("link/ring"),
    ];
    for inside in inside {
        assert!(matches!(
            Keyring::create(&inside, &[&data], entropy()),
            Err(KeyringError::InsideData { .. })
        ));
    }
    let beside = place.path().join("database-keys");
    Keyring::create(&beside, &[&data], entropy()).expect("a like name is no part of it");
}

#[test]
fn files_that_are_no_keyrings_say_what_they_are_not() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("ring");
    let ring = Keyring::create(&path, &[], entropy()).expect("creates");
    let key = ring.export(ring.current_key_id()).expect("exports");
    let key = key.as_str();
    for (text, at, expected) in [
        (String::new(), 1, KeyTextProblem::NotAKeyring),
        ("[keys]\n".to_owned(), 1, KeyTextProblem::NotAKeyring),
        (
            format!("pageserver-keyring 2\n{key}\n"),
            1,
            KeyTextProblem::UnknownVersion,
        ),
        (format!("{HEADER}\n"), 1, KeyTextProblem::Empty),
        (
            format!("{HEADER}\n# spare\n{key}\n{key}\n"),
            4,
            KeyTextProblem::Twice,
        ),
        (
            format!("{HEADER}\n{}\n", &key[..40]),
            2,
            KeyTextProblem::Shape,
        ),
        (
            format!("{HEADER}\n{}", "#\n".repeat(FILE_BYTES_MAX)),
            1,
            KeyTextProblem::TooLarge,
        ),
    ] {
        std::fs::write(&path, text).expect("writes");
        match Keyring::open(&path, &[], entropy()) {
            Err(KeyringError::Malformed { line, problem, .. }) => {
                assert_eq!((line, problem), (at, expected));
            }
            other => panic!("{other:?} instead of {expected:?}"),
        }
    }
}
