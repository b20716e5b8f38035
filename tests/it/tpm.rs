//! TPM devices: the endorsement key read, proved and used, against real swtpm processes.

#[test]
fn both_published_bundles_load_whole() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/tpm-vendor-roots");
    let folder = if folder.exists() { folder } else { "/work/shared/data/tpm-vendor-roots".into() };
    let roots = dps_station::tpm::roots::load(&folder).unwrap();
    for r in roots.refused() { println!("{r:?}"); }
    println!("{:?} {} {} {:?}", roots.releases(), roots.anchors(), roots.intermediates(), roots.digest());
    for r in roots.not_valid_at(1_795_000_000) { println!("expired {r:?}"); }
}
