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

# nfm_add_nf(folder sources...): a native NF without libraries of others, and its test.
function(nfm_add_nf folder)
  list(TRANSFORM ARGN PREPEND "${NFM_ROOT}/nfs/${folder}/" OUTPUT_VARIABLE sources)
  list(TRANSFORM sources APPEND ".c")
  add_library(${folder} MODULE ${sources})
  target_include_directories(${folder} PRIVATE "${NFM_ROOT}/nfs")
  target_link_libraries(${folder} PRIVATE nfm)
  set_target_properties(${folder} PROPERTIES PREFIX "" INSTALL_RPATH "$ORIGIN/../../mesh")
  install(TARGETS ${folder} LIBRARY DESTINATION nfs/${folder})
  if(NFM_TESTS)
    file(GLOB tests CONFIGURE_DEPENDS "${NFM_ROOT}/tests/native/nfs/test_${folder}*.c")
    foreach(test ${tests})
      get_filename_component(name "${test}" NAME_WE)
      add_executable(${name} "${test}" ${sources})
      target_include_directories(${name} PRIVATE "${NFM_ROOT}/nfs/${folder}" "${NFM_ROOT}/nfs")
      target_link_libraries(${name} PRIVATE nfm_test_lib)
      add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY "${NFM_ROOT}")
    endforeach()
  endif()
endfunction()

nfm_add_nf(nat nat nat_table nat_sessions nat_errors npt)
nfm_add_nf(load_balancer load_balancer maglev)
