# SPDX-License-Identifier: Apache-2.0
# Native NFs: one shared object per folder that has C, installed beside its nf.py. An NF whose
# library is missing here is left out; nf.py says so when somebody asks for it.

# nfm_native_nf(NAME [LIBRARY...]): nfs/NAME/*.c, and the tests tests/native/nfs/test_NAME.c
# and test_NAME_*.c.
function(nfm_native_nf name)
  file(GLOB sources CONFIGURE_DEPENDS "${NFM_ROOT}/nfs/${name}/*.c")
  add_library(${name} MODULE ${sources})
  target_include_directories(${name} PRIVATE "${NFM_ROOT}/nfs")
  target_link_libraries(${name} PRIVATE nfm ${ARGN})
  set_target_properties(${name} PROPERTIES PREFIX "" INSTALL_RPATH "$ORIGIN/../../mesh")
  install(TARGETS ${name} LIBRARY DESTINATION nfs/${name})
  file(GLOB tests CONFIGURE_DEPENDS "${NFM_ROOT}/tests/native/nfs/test_${name}.c"
       "${NFM_ROOT}/tests/native/nfs/test_${name}_*.c")
  if(NOT NFM_TESTS)
    return()
  endif()
  foreach(test ${tests})
    get_filename_component(target "${test}" NAME_WE)
    add_executable(${target} "${test}" ${sources})
    target_include_directories(${target} PRIVATE "${NFM_ROOT}/nfs" "${NFM_ROOT}/nfs/${name}")
    target_link_libraries(${target} PRIVATE nfm_test_lib ${ARGN})
    add_test(NAME ${target} COMMAND ${target} WORKING_DIRECTORY "${NFM_ROOT}")
  endforeach()
endfunction()

if(NFM_TESTS)
  enable_testing()
endif()

# Those that need nothing but this project: each folder with C.
file(GLOB NFM_NF_SOURCES CONFIGURE_DEPENDS "${NFM_ROOT}/nfs/*/*.c")
set(NFM_NATIVE_NFS "")
foreach(source IN LISTS NFM_NF_SOURCES)
  get_filename_component(folder "${source}" DIRECTORY)
  get_filename_component(name "${folder}" NAME)
  list(APPEND NFM_NATIVE_NFS ${name})
endforeach()
list(REMOVE_DUPLICATES NFM_NATIVE_NFS)
list(REMOVE_ITEM NFM_NATIVE_NFS payload_scan)
foreach(name IN LISTS NFM_NATIVE_NFS)
  nfm_native_nf(${name})
endforeach()

find_path(HS_INCLUDE hs/hs.h)
find_library(HS_LIB hs)
if(HS_INCLUDE AND HS_LIB)
  nfm_native_nf(payload_scan "${HS_LIB}")
  target_include_directories(payload_scan PRIVATE "${HS_INCLUDE}")
  if(TARGET test_payload_scan)
    target_include_directories(test_payload_scan PRIVATE "${HS_INCLUDE}")
  endif()
else()
  message(STATUS "libhs (Vectorscan or Hyperscan) not found: without nfs/payload_scan")
endif()
