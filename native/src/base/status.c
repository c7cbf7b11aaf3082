/* SPDX-License-Identifier: Apache-2.0 */
/* The words for the numbers of the ABI. No switch has a default: a new code without a text is a
 * compiler warning. */
#include "nfm/nfm.h"

/*
 * nfm_strerror names |status| in words. The text is static; a number that is no enum nfm_status
 * is called unknown.
 */
const char *nfm_strerror(int status) {
    switch ((enum nfm_status)status) {
    case NFM_OK:
        return "no error";
    case NFM_E_NOMEM:
        return "out of memory";
    case NFM_E_INVAL:
        return "argument out of range or inconsistent";
    case NFM_E_IO:
        return "input/output error";
    case NFM_E_FORMAT:
        return "wrong file format";
    case NFM_E_EOF:
        return "end of input";
    case NFM_E_LIMIT:
        return "a configured limit was reached";
    case NFM_E_STATE:
        return "called in the wrong order";
    case NFM_E_ABI:
        return "ABI versions differ";
    case NFM_E_AGAIN:
        return "not now, try again";
    case NFM_E_TRUNCATED:
        return "the file ends inside a packet";
    }
    return "unknown status";
}

/*
 * nfm_conn_state_name gives the conn_state word of a connection, "-" for flows that have none.
 * Source: the vocabulary of Zeek's conn.log.
 */
const char *nfm_conn_state_name(int state) {
    switch ((enum nfm_conn_state)state) {
    case NFM_CS_NONE:
        return "-";
    case NFM_CS_S0:
        return "S0";
    case NFM_CS_S1:
        return "S1";
    case NFM_CS_SF:
        return "SF";
    case NFM_CS_REJ:
        return "REJ";
    case NFM_CS_S2:
        return "S2";
    case NFM_CS_S3:
        return "S3";
    case NFM_CS_RSTO:
        return "RSTO";
    case NFM_CS_RSTR:
        return "RSTR";
    case NFM_CS_RSTOS0:
        return "RSTOS0";
    case NFM_CS_RSTRH:
        return "RSTRH";
    case NFM_CS_SH:
        return "SH";
    case NFM_CS_SHR:
        return "SHR";
    case NFM_CS_OTH:
        return "OTH";
    }
    return "?";
}

/*
 * nfm_tcp_state_name gives the name of one side's TCP state. Source: RFC 9293 section 3.3.2.
 */
const char *nfm_tcp_state_name(int state) {
    switch ((enum nfm_tcp_state)state) {
    case NFM_TCP_NONE:
        return "NONE";
    case NFM_TCP_SYN_SENT:
        return "SYN-SENT";
    case NFM_TCP_SYN_RECEIVED:
        return "SYN-RECEIVED";
    case NFM_TCP_ESTABLISHED:
        return "ESTABLISHED";
    case NFM_TCP_FIN_WAIT_1:
        return "FIN-WAIT-1";
    case NFM_TCP_FIN_WAIT_2:
        return "FIN-WAIT-2";
    case NFM_TCP_CLOSE_WAIT:
        return "CLOSE-WAIT";
    case NFM_TCP_CLOSING:
        return "CLOSING";
    case NFM_TCP_LAST_ACK:
        return "LAST-ACK";
    case NFM_TCP_TIME_WAIT:
        return "TIME-WAIT";
    case NFM_TCP_CLOSED:
        return "CLOSED";
    }
    return "?";
}
