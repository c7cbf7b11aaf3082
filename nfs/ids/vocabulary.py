# SPDX-License-Identifier: Apache-2.0
"""Words of the rule language: classes with their severities, and keywords that are not handled."""

from __future__ import annotations

__all__ = ["CLASSES", "OTHER_KEYWORDS"]

_BY_SEVERITY = {
    1: "attempted-admin attempted-user inappropriate-content policy-violation shellcode-detect "
    "successful-admin successful-user trojan-activity unsuccessful-user web-application-attack "
    "targeted-activity exploit-kit domain-c2 credential-theft command-and-control",
    2: "attempted-dos attempted-recon bad-unknown default-login-attempt denial-of-service "
    "misc-attack non-standard-protocol rpc-portmap-decode successful-dos "
    "successful-recon-largescale successful-recon-limited suspicious-filename-detect "
    "suspicious-login system-call-detect unusual-client-port-connection web-application-activity "
    "external-ip-check social-engineering coin-mining pup-activity",
    3: "icmp-event misc-activity network-scan not-suspicious protocol-command-decode "
    "string-detect unknown kickass-porn",
    4: "tcp-connection",
}
CLASSES = {name: number for number, names in _BY_SEVERITY.items() for name in names.split()}
"""classtype → severity, 1 the worst."""

OTHER_KEYWORDS = frozenset(
    "app-layer-event app-layer-protocol asn1 base64_data base64_decode bsize bypass byte_extract "
    "byte_jump byte_math byte_test compress_whitespace config cip_service csum classtype_id "
    "dataset datarep dce_iface dce_opnum dce_stub_data decode-event dnp3_data dns.answer.name "
    "dns.answers.rrname dns.opcode dns.query.name dns.rcode dns.rrtype dns_query dotprefix "
    "enip_command engine-event file.data file.magic file.name file_data fileext filemagic filemd5 "
    "filename filesha1 filesha256 filesize filestore flow.age flow.bytes flow.pkts flowint "
    "fragbits fragoffset frame ftp.command ftpbounce ftpdata_command geoip header_lowercase "
    "hostbits http.header_names http.host_len http.protocol http.request_body http.request_header "
    "http.request_line http.response_body http.response_header http.response_line http.start "
    "http.uri_len http_accept http_accept_enc http_accept_lang http_client_body http_connection "
    "http_content_len http_content_type http_header_names http_protocol http_referer "
    "http_request_line http_response_line http_server_body http_start icmp_id icmp_seq icmpv4.hdr "
    "icmpv6.hdr icmpv6.mtu id ike.init_spi ip_proto ipopts iprep ipv4.hdr ipv6.hdr isdataat "
    "ja3.hash ja3.string ja3_hash ja3_string ja3s.hash ja3s.string ja4.hash krb5_err_code "
    "l3_proto lua luajit luaxform md5_hash modbus mqtt.type nfq_set_mark nfs_procedure nfs_version "
    "nlp not_suspicious pcrexform quic.version replace rev_http rfb.name rpc sameip seq "
    "sip.method sip.uri smb.named_pipe smb.share snmp.version ssh.hassh ssh.proto ssh.software "
    "ssh_proto ssh_software ssl_state ssl_version stream-event stream_size strip_whitespace tag "
    "tcp.flags tcp.hdr tcp.mss template tls.cert_fingerprint tls.cert_issuer tls.cert_serial "
    "tls.cert_subject tls.certs tls.fingerprint tls.issuerdn tls.sni tls.store tls.subject "
    "tls.version tls_sni to_lowercase to_md5 to_sha1 to_sha256 to_uppercase tos ttl tx_bits "
    "udp.hdr uricontent urilen url_decode window ack within_var xbits xor".split()
)
"""Keywords of Suricata's language that are not handled: a rule with one is left out, and listed."""
