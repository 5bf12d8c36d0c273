use super::*;
use crate::types::{BranchId, Id};

fn context() -> BlockContext {
    BlockContext {
        format: FormatTag::new(b"TEST", 1),
        cipher: CIPHER_ID,
        tenant: TenantId(Id([1; 16])),
        object: ObjectId {
            branch: BranchId(Id([2; 16])),
            epoch: 3,
            sequence: 4,
        },
        kind: BlockKind::LayerBlock,
        number: 5,
        first_key: Key([6; KEY_BYTES]),
        last_key: Key([7; KEY_BYTES]),
        first_lsn: Lsn(8),
        last_lsn: Lsn(9),
    }
}

fn dek() -> Dek {
    Dek::from_bytes([42; DEK_BYTES])
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("the vectors are hex"))
        .collect()
}

#[test]
fn the_cipher_answers_rfc_8452s_vectors() {
    for (key, nonce, associated, plain, sealed) in RFC_8452_C_2 {
        let dek = Dek::from_bytes(bytes(key).try_into().expect("32 bytes"));
        let nonce: [u8; 12] = bytes(nonce).try_into().expect("12 bytes");
        let mut buf = bytes(plain);
        let tag = dek
            .cipher()
            .encrypt_inout_detached(&nonce.into(), &bytes(associated), (&mut buf[..]).into())
            .expect("short");
        buf.extend_from_slice(&tag);
        assert_eq!(buf, bytes(sealed), "key {key}");
    }
}

#[test]
fn what_was_sealed_opens_in_place_into_another_buffer_and_as_a_vec() {
    let plain: Vec<u8> = (0..=255).cycle().take(8200).collect();
    let sealed = Sealer::new(&dek()).seal_vec(&context(), &plain);
    assert_eq!(sealed.len(), plain.len() + TAG_BYTES);
    let opener = Opener::new(&dek());
    assert_eq!(opener.open_vec(&context(), &sealed), Ok(plain.clone()));

    let mut out = vec![0xaa; 9000];
    assert_eq!(
        opener.open_into(&context(), &sealed, &mut out),
        Ok(plain.len())
    );
    assert_eq!(out[..plain.len()], plain);
    assert!(out[plain.len()..].iter().all(|b| *b == 0xaa));

    let (ciphertext, tag) = sealed.split_last_chunk().expect("has a tag");
    let mut buf = ciphertext.to_vec();
    assert_eq!(opener.open_in_place(&context(), &mut buf, tag), Ok(()));
    assert_eq!(buf, plain);
}

#[test]
fn every_single_bit_flip_of_a_sealed_page_is_refused() {
    let plain: Vec<u8> = (0..=255).cycle().take(8192).collect();
    let sealed = Sealer::new(&dek()).seal_vec(&context(), &plain);
    let opener = Opener::new(&dek());
    let mut damaged = sealed.clone();
    let mut out = vec![0; plain.len()];
    for bit in 0..sealed.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        let opened = opener.open_into(&context(), &damaged, &mut out);
        assert_eq!(opened, Err(context().bad_seal()), "bit {bit}");
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(
        out.iter().all(|b| *b == 0),
        "no unchecked plaintext is left"
    );
    assert_eq!(opener.open_vec(&context(), &damaged), Ok(plain));
}

#[test]
fn a_truncated_block_is_refused() {
    let sealed = Sealer::new(&dek()).seal_vec(&context(), b"0123456789abcdef0123");
    let opener = Opener::new(&dek());
    for len in 0..sealed.len() {
        assert!(opener.open_vec(&context(), &sealed[..len]).is_err());
    }
}

#[test]
fn every_changed_field_of_the_context_is_refused() {
    let c = context();
    let object = |change: fn(&mut ObjectId)| {
        let mut object = c.object;
        change(&mut object);
        BlockContext { object, ..c }
    };
    #[rustfmt::skip]
    let others = [
        BlockContext { format: FormatTag::new(b"TEST", 2), ..c },
        BlockContext { format: FormatTag::new(b"REST", 1), ..c },
        BlockContext { cipher: 2, ..c },
        BlockContext { tenant: TenantId(Id([0; 16])), ..c },
        object(|o| o.branch = BranchId(Id([0; 16]))),
        object(|o| o.epoch += 1),
        object(|o| o.sequence += 1),
        BlockContext { kind: BlockKind::LayerIndex, ..c },
        BlockContext { number: 6, ..c },
        BlockContext { first_key: Key([0; KEY_BYTES]), ..c },
        BlockContext { last_key: Key([0; KEY_BYTES]), ..c },
        BlockContext { first_lsn: Lsn(0), ..c },
        BlockContext { last_lsn: Lsn(0), ..c },
    ];
    let sealed = Sealer::new(&dek()).seal_vec(&c, b"page");
    let opener = Opener::new(&dek());
    assert_eq!(opener.open_vec(&c, &sealed), Ok(b"page".to_vec()));
    for other in others {
        assert_ne!(other.associated_data(), c.associated_data());
        assert_eq!(
            opener.open_vec(&other, &sealed),
            Err(other.bad_seal()),
            "{other:?}"
        );
    }
    let wrong = Opener::new(&Dek::from_bytes([43; DEK_BYTES]));
    assert_eq!(wrong.open_vec(&c, &sealed), Err(c.bad_seal()));
}

#[test]
fn every_byte_of_the_associated_data_belongs_to_a_field() {
    let tag = u32::from_le_bytes(*b"TEST");
    #[rustfmt::skip]
    let expected = [
        &tag.to_le_bytes()[..], &[1, 0], &[1, 0], &[1; 16], &[2; 16], &[3, 0, 0, 0], &[2, 0, 0, 0],
        &[4, 0, 0, 0, 0, 0, 0, 0], &[5, 0, 0, 0, 0, 0, 0, 0], &[6; 24], &[7; 24],
        &[8, 0, 0, 0, 0, 0, 0, 0], &[9, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(context().associated_data()[..], expected);
}

#[test]
fn the_key_check_value_tells_keys_apart_and_never_changes() {
    let mut seen = std::collections::HashSet::new();
    for bit in 0..DEK_BYTES * 8 {
        let mut key = [42; DEK_BYTES];
        key[bit / 8] ^= 1 << (bit % 8);
        assert!(seen.insert(Dek::from_bytes(key).key_check_value()));
    }
    assert!(!seen.contains(&dek().key_check_value()));
    let hex: String = dek()
        .key_check_value()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(hex, KEY_CHECK_OF_42S);
}

#[test]
fn drawn_keys_differ_and_debug_hides_them() {
    let (a, b) = (Dek::draw(), Dek::draw());
    assert_ne!(a.expose(), b.expose());
    assert_eq!(format!("{a:?}"), "Dek(..)");
}

/// Stored in objects: it may not change. The value is from an independent implementation (OpenSSL).
const KEY_CHECK_OF_42S: &str = "f02bedaa7ff7eacbb9097c3a60cbb2b7";

/// Key, nonce, associated data, plaintext, ciphertext with tag: a selection of RFC 8452, appendix C.2.
const RFC_8452_C_2: &[(&str, &str, &str, &str, &str)] = &[
    (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "030000000000000000000000",
        "",
        "0100000000000000",
        "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28",
    ),
    (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "030000000000000000000000",
        "",
        "01000000000000000000000000000000",
        "85a01b63025ba19b7fd3ddfc033b3e76c9eac6fa700942702e90862383c6c366",
    ),
    (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "030000000000000000000000",
        "01",
        "020000000000000000000000",
        "163d6f9cc1b346cd453a2e4cc1a4a19ae800941ccdc57cc8413c277f",
    ),
    (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "030000000000000000000000",
        "010000000000000000000000",
        "02000000",
        "22b3f4cd1835e517741dfddccfa07fa4661b74cf",
    ),
    (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "030000000000000000000000",
        "010000000000000000000000000000000200",
        "0300000000000000000000000000000004000000",
        "43dd0163cdb48f9fe3212bf61b201976067f342bb879ad976d8242acc188ab59cabfe307",
    ),
    (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "030000000000000000000000",
        "0100000000000000000000000000000002000000",
        "030000000000000000000000000000000400",
        "462401724b5ce6588d5a54aae5375513a075cfcdf5042112aa29685c912fc2056543",
    ),
    (
        "e66021d5eb8e4f4066d4adb9c33560e4f46e44bb3da0015c94f7088736864200",
        "e0eaf5284d884a0e77d31646",
        "",
        "",
        "169fbb2fbf389a995f6390af22228a62",
    ),
    (
        "bae8e37fc83441b16034566b7a806c46bb91c3c5aedb64a6c590bc84d1a5e269",
        "e4b47801afc0577e34699b9e",
        "4fbdc66f14",
        "671fdd",
        "0eaccb93da9bb81333aee0c785b240d319719d",
    ),
    (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "030000000000000000000000",
        "0100000000000000000000000000000002000000",
        "030000000000000000000000000000000400",
        "462401724b5ce6588d5a54aae5375513a075cfcdf5042112aa29685c912fc2056543",
    ),
    (
        "b18853f68d833640e42a3c02c25b64869e146d7b233987bddfc240871d7576f7",
        "028ec6eb5ea7e298342a94d4",
        "9c2159058b1f0fe91433a5bdc20e214eab7fecef4454a10ef0657df21ac7",
        "b202b370ef9768ec6561c4fe6b7e7296fa85",
        "857e16a64915a787637687db4a9519635cdd454fc2a154fea91f8363a39fec7d0a49",
    ),
    (
        "3c535de192eaed3822a2fbbe2ca9dfc88255e14a661b8aa82cc54236093bbc23",
        "688089e55540db1872504e1c",
        "734320ccc9d9bbbb19cb81b2af4ecbc3e72834321f7aa0f70b7282b4f33df23f167541",
        "ced532ce4159b035277d4dfbb7db62968b13cd4eec",
        "626660c26ea6612fb17ad91e8e767639edd6c9faee9d6c7029675b89eaf4ba1ded1a286594",
    ),
];
