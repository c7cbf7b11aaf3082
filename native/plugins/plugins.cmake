# SPDX-License-Identifier: Apache-2.0
# Ports as libraries of their own beside libnfm, loaded at run time. What is missing here is left
# out; opening such a port says what to install. Nothing that is fuzzed loads one.
if(NFM_FUZZ)
  return()
endif()
find_package(PkgConfig)
if(PKG_CONFIG_FOUND)
  pkg_check_modules(DPDK IMPORTED_TARGET libdpdk>=22.11)
  pkg_check_modules(XDP IMPORTED_TARGET libxdp>=1.2 libbpf>=1.0)
endif()

function(nfm_add_plugin name requires)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/plugins/${name}/*.c")
  add_library(nfm_${name} MODULE ${sources} "${CMAKE_CURRENT_SOURCE_DIR}/src/io/fail.c"
              "${CMAKE_CURRENT_SOURCE_DIR}/src/io/link.c"
              "${CMAKE_CURRENT_SOURCE_DIR}/src/io/whole.c")
  target_include_directories(nfm_${name} PRIVATE include src)
  target_link_libraries(nfm_${name} PRIVATE ${requires})
  if(NFM_PYTHON)
    install(TARGETS nfm_${name} LIBRARY DESTINATION mesh)
  endif()
endfunction()

if(DPDK_FOUND)
  nfm_add_plugin(dpdk PkgConfig::DPDK)
  # Mapping memory for a device's DMA (rte_dev_dma_map) is marked experimental in 22.11.
  target_compile_definitions(nfm_dpdk PRIVATE ALLOW_EXPERIMENTAL_API)
else()
  message(STATUS "libdpdk not found: without the dpdk port")
endif()
if(XDP_FOUND)
  nfm_add_plugin(afxdp PkgConfig::XDP)
else()
  message(STATUS "libxdp or libbpf not found: without the afxdp port")
endif()
