/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* What the clone tap's programs and vtap-gen both see. */
#ifndef VTAP_GEN_CLONE_TAP_H
#define VTAP_GEN_CLONE_TAP_H

enum { CLONE_TAP_MONITORS = 4 };

#endif
