# SPDX-License-Identifier: Apache-2.0
# Native NFs: one shared object per folder that has C, installed beside its nf.py. An NF whose
# library is missing here is left out; nf.py says so when somebody asks for it.
find_path(HS_INCLUDE hs/hs.h)
find_library(HS_LIB hs)

if(HS_INCLUDE AND HS_LIB)
  add_library(payload_scan MODULE "${NFM_ROOT}/nfs/payload_scan/payload_scan.c")
  target_include_directories(payload_scan PRIVATE "${HS_INCLUDE}")
  target_link_libraries(payload_scan PRIVATE nfm "${HS_LIB}")
  set_target_properties(payload_scan PROPERTIES PREFIX "" INSTALL_RPATH "$ORIGIN/../../mesh")
  install(TARGETS payload_scan LIBRARY DESTINATION nfs/payload_scan)
  if(NFM_TESTS)
    enable_testing()
    add_executable(test_payload_scan "${NFM_ROOT}/tests/native/nfs/test_payload_scan.c"
                   "${NFM_ROOT}/nfs/payload_scan/payload_scan.c")
    target_include_directories(test_payload_scan PRIVATE "${NFM_ROOT}/nfs/payload_scan"
                               "${HS_INCLUDE}")
    target_link_libraries(test_payload_scan PRIVATE nfm_test_lib "${HS_LIB}")
    add_test(NAME test_payload_scan COMMAND test_payload_scan WORKING_DIRECTORY "${NFM_ROOT}")
  endif()
else()
  message(STATUS "libhs (Vectorscan or Hyperscan) not found: without nfs/payload_scan")
endif()

set(FIREWALL_SOURCES "${NFM_ROOT}/nfs/firewall/firewall.c" "${NFM_ROOT}/nfs/firewall/classify.c"
    "${NFM_ROOT}/nfs/firewall/order.c")
add_library(firewall MODULE ${FIREWALL_SOURCES})
target_link_libraries(firewall PRIVATE nfm)
set_target_properties(firewall PROPERTIES PREFIX "" INSTALL_RPATH "$ORIGIN/../../mesh")
install(TARGETS firewall LIBRARY DESTINATION nfs/firewall)
if(NFM_TESTS)
  enable_testing()
  add_executable(test_firewall "${NFM_ROOT}/tests/native/nfs/test_firewall.c" ${FIREWALL_SOURCES})
  target_include_directories(test_firewall PRIVATE "${NFM_ROOT}/nfs/firewall")
  target_link_libraries(test_firewall PRIVATE nfm_test_lib)
  add_test(NAME test_firewall COMMAND test_firewall WORKING_DIRECTORY "${NFM_ROOT}")
endif()
