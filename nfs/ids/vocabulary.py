# SPDX-License-Identifier: Apache-2.0
"""Words of the rule language: classes, variables, and what is known but not handled."""

from __future__ import annotations

__all__ = ["CLASSES", "OTHER_KEYWORDS", "OTHER_PROTOCOLS", "VARIABLES"]

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
    "string-detect unknown",
    4: "tcp-connection",
}
CLASSES = {name: number for number, names in _BY_SEVERITY.items() for name in names.split()}
"""classtype → severity, 1 the worst."""

_KEYWORDS = """
ack app-layer-event app-layer-protocol asn1 base64_data base64_decode bypass byte_extract
byte_jump byte_math byte_test cip_service compress_whitespace config datarep dataset dce_iface
dce_opnum dce_stub_data dcerpc.iface dcerpc.opnum dcerpc.stub_data decode-event dhcp.leasetime
dhcp.rebinding_time dhcp.renewal_time dnp3.data dnp3_data dnp3_func dnp3_ind dnp3_obj
dns.answer.name dns.answers.rrname dns.opcode dns.query.name dns.rcode dns.rrtype dotprefix
engine-event enip_command file.data file.magic file.name file_data fileext filemagic filemd5
filename filesha1 filesha256 filesize filestore flow.age flowint flowvar fragbits fragoffset frame
ftp.command ftpbounce ftpdata_command geoip header_lowercase hostbits http.header_names
http.protocol http.request_body http.request_header http.request_line http.response_body
http.response_header http.response_line http.start http2.errorcode http2.frametype http2.header_name
http2.priority http2.settings http2.size_update http2.window http_accept http_accept_enc
http_accept_lang http_client_body http_connection http_content_len http_content_type
http_header_names http_protocol http_referer http_request_line http_response_line http_server_body
http_start icmp_id icmp_seq icmpv4-csum icmpv4.hdr icmpv6-csum icmpv6.hdr icmpv6.mtu id
ike.chosen_sa_attribute ike.exchtype ike.init_spi ike.key_exchange_payload
ike.key_exchange_payload_length ike.nonce_payload ike.nonce_payload_length ike.resp_spi ike.vendor
ip.dst ip.src ip_proto ipopts iprep ipv4-csum ipv4.hdr ipv6.hdr ja3.hash ja3.string
ja3_hash ja3_string ja3s.hash ja3s.string ja4.hash krb5.cname krb5.sname krb5.ticket_encryption
krb5_err_code krb5_msg_type l3_proto lua modbus mqtt.connack.session_present mqtt.connect.clientid
mqtt.connect.flags mqtt.connect.password mqtt.connect.username mqtt.connect.willmessage
mqtt.connect.willtopic mqtt.flags mqtt.protocol_version mqtt.publish.message mqtt.publish.topic
mqtt.qos mqtt.reason_code mqtt.subscribe.topic mqtt.type mqtt.unsubscribe.topic nfq_set_mark
nfs.version nfs_procedure nfs_version pcrexform pktvar quic.cyu.hash quic.cyu.string quic.sni
quic.ua quic.version replace requires rfb.name rfb.secresult rfb.sectype rpc sameip seq sip.method
sip.protocol sip.request_line sip.response_line sip.stat_code sip.stat_msg sip.uri smb.named_pipe
smb.ntlmssp_domain smb.ntlmssp_user smb.share snmp.community snmp.pdu_type snmp.usm snmp.version
ssh.hassh ssh.hassh.server ssh.hassh.server.string ssh.hassh.string ssh.proto ssh.protoversion
ssh.software ssh.softwareversion ssh_proto ssh_software ssl_state ssl_version stream-event
stream_size strip_pseudo_headers strip_whitespace tag tcp.ack tcp.hdr tcp.mss tcp.seq tcp.window
tcpv4-csum tcpv6-csum tls.cert_chain_len tls.cert_fingerprint tls.cert_issuer tls.cert_serial
tls.cert_subject tls.certs tls.fingerprint tls.issuerdn tls.random tls.random_bytes tls.random_time
tls.sni tls.subject tls.version tls_cert_expired tls_cert_notafter tls_cert_notbefore tls_cert_valid
tls_sni tls_store to_lowercase to_md5 to_sha1 to_sha256 to_uppercase tos ttl udp.hdr udpv4-csum
udpv6-csum uricontent url_decode window xbits xor
"""
OTHER_KEYWORDS = frozenset(_KEYWORDS.split())
"""Keywords of Suricata's language that are not handled: a rule with one is left out, and listed."""

_PROTOCOLS = """
arp bittorrent-dht dcerpc dhcp dnp3 doh2 enip esp ftp ftp-data gre http2 icmpv4 icmpv6 igmp ike imap
ip4 ip6 ipv4 ipv6 krb5 ldap mdns modbus mqtt nfs ntp pgsql pkthdr pop3 quic rdp rfb sctp sip smb
smtp snmp ssh ssl telnet tftp tls websocket
"""
OTHER_PROTOCOLS = frozenset(_PROTOCOLS.split())
"""Protocols of Suricata's language that are not handled, likewise."""

_SERVERS = """
HTTP_SERVERS SMTP_SERVERS SQL_SERVERS DNS_SERVERS TELNET_SERVERS AIM_SERVERS DC_SERVERS DNP3_SERVER
DNP3_CLIENT MODBUS_CLIENT MODBUS_SERVER ENIP_CLIENT ENIP_SERVER
"""
VARIABLES = {
    "HOME_NET": "[10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7,fe80::/10]",
    "EXTERNAL_NET": "!$HOME_NET",
    **dict.fromkeys(_SERVERS.split(), "$HOME_NET"),
    "HTTP_PORTS": "80",
    "SHELLCODE_PORTS": "!80",
    "ORACLE_PORTS": "1521",
    "SSH_PORTS": "22",
    "DNP3_PORTS": "20000",
    "MODBUS_PORTS": "502",
    "FILE_DATA_PORTS": "[$HTTP_PORTS,110,143]",
    "FTP_PORTS": "21",
    "GENEVE_PORTS": "6081",
    "VXLAN_PORTS": "4789",
    "TEREDO_PORTS": "3544",
}
"""What $NAME stands for unless the option `variables` says otherwise."""
