# SPDX-License-Identifier: Apache-2.0
#
# vtap_bpf_skeleton(<target> <file.bpf.c> [INCLUDES <dir>...] [DEFINES <name[=value]>...])
#
# Compiles one BPF program file and makes <target>, an INTERFACE library: whoever links it can
#   #include "<file>.skel.h"       struct <file>_bpf, <file>_bpf__open() ...
# (a dash in the name becomes an underscore in the C names, not in the name of the header), and has
# libbpf linked. The project's include/ is searched, then INCLUDES. Headers are tracked.
#
# Debian 12: clang, libbpf-dev, bpftool (in /usr/sbin, which may not be in PATH).

include_guard(GLOBAL)

find_program(VTAP_BPF_CLANG NAMES clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14
             DOC "clang with the BPF target")
find_program(VTAP_BPFTOOL NAMES bpftool PATHS /usr/sbin /sbin DOC "bpftool, for skeletons")
foreach(tool VTAP_BPF_CLANG VTAP_BPFTOOL)
  if(NOT ${tool})
    message(FATAL_ERROR "${tool} not found: apt-get install clang bpftool, or set -D${tool}=PATH")
  endif()
endforeach()

# <asm/types.h> is in a directory of its own on multiarch distributions, which clang does not search
# for another target than the host. Empty where a distribution has none.
if(NOT DEFINED VTAP_BPF_ASM_INCLUDE)
  set(vtap_multiarch "")
  find_program(VTAP_GCC NAMES gcc)
  foreach(compiler "${CMAKE_C_COMPILER}" "${VTAP_GCC}")
    if(NOT vtap_multiarch AND compiler)
      execute_process(COMMAND "${compiler}" -print-multiarch OUTPUT_VARIABLE vtap_multiarch
                      OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
  endforeach()
  if(NOT vtap_multiarch)
    set(vtap_multiarch "${CMAKE_LIBRARY_ARCHITECTURE}")
  endif()
  set(vtap_asm_include "")
  if(vtap_multiarch AND IS_DIRECTORY "/usr/include/${vtap_multiarch}/asm")
    set(vtap_asm_include "/usr/include/${vtap_multiarch}")
  endif()
  set(VTAP_BPF_ASM_INCLUDE "${vtap_asm_include}"
      CACHE PATH "Directory of the asm/ headers for BPF programs")
endif()

# The register layout that <bpf/bpf_tracing.h> asks for.
set(VTAP_BPF_ARCH "${CMAKE_SYSTEM_PROCESSOR}")
if(VTAP_BPF_ARCH MATCHES "^(x86_64|amd64|AMD64|i.86)$")
  set(VTAP_BPF_ARCH x86)
elseif(VTAP_BPF_ARCH MATCHES "^(aarch64|arm64)$")
  set(VTAP_BPF_ARCH arm64)
endif()

function(vtap_bpf_skeleton target source)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "INCLUDES;DEFINES")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "vtap_bpf_skeleton(${target}): what is ${arg_UNPARSED_ARGUMENTS}?")
  endif()

  cmake_path(ABSOLUTE_PATH source NORMALIZE)
  cmake_path(GET source FILENAME name)
  string(REGEX REPLACE "\\.bpf\\.c$" "" name "${name}")
  string(MAKE_C_IDENTIFIER "${name}_bpf" object_name)

  set(dir "${CMAKE_CURRENT_BINARY_DIR}/${target}.skel")
  file(MAKE_DIRECTORY "${dir}")
  set(compiled "${dir}/${name}.bpf.o")   # with DWARF
  set(linked "${dir}/${name}.linked.o")  # without: what is embedded
  set(header "${dir}/${name}.skel.h")

  set(flags -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror "-D__TARGET_ARCH_${VTAP_BPF_ARCH}")
  foreach(define IN LISTS arg_DEFINES)
    list(APPEND flags "-D${define}")
  endforeach()
  list(APPEND flags "-I${PROJECT_SOURCE_DIR}/include")
  foreach(include IN LISTS arg_INCLUDES)
    cmake_path(ABSOLUTE_PATH include NORMALIZE)
    list(APPEND flags "-I${include}")
  endforeach()
  list(APPEND flags ${LIBBPF_CFLAGS})
  if(VTAP_BPF_ASM_INCLUDE)
    list(APPEND flags -idirafter "${VTAP_BPF_ASM_INCLUDE}")
  endif()

  add_custom_command(
    OUTPUT "${compiled}"
    COMMAND "${VTAP_BPF_CLANG}" ${flags} -MD -MF "${compiled}.d" -MQ "${compiled}"
            -c "${source}" -o "${compiled}"
    DEPENDS "${source}"
    DEPFILE "${compiled}.d"
    COMMENT "BPF program ${name}.bpf.o"
    VERBATIM)
  # To a temporary name first: bpftool leaves an empty header behind when it fails.
  add_custom_command(
    OUTPUT "${header}"
    BYPRODUCTS "${linked}"
    COMMAND "${VTAP_BPFTOOL}" gen object "${linked}" "${compiled}"
    COMMAND "${VTAP_BPFTOOL}" gen skeleton "${linked}" name "${object_name}" > "${header}.tmp"
    COMMAND "${CMAKE_COMMAND}" -E rename "${header}.tmp" "${header}"
    DEPENDS "${compiled}"
    COMMENT "BPF skeleton ${name}.skel.h"
    VERBATIM)

  add_custom_target(${target}_skel DEPENDS "${header}")
  add_library(${target} INTERFACE)
  add_dependencies(${target} ${target}_skel)
  # SYSTEM: generated code is not held to our warnings.
  target_include_directories(${target} SYSTEM INTERFACE "${dir}")
  target_link_libraries(${target} INTERFACE PkgConfig::LIBBPF)
  # For those who load the object file itself, such as a test or a look at the code.
  set_target_properties(${target} PROPERTIES VTAP_BPF_OBJECT "${compiled}")
endfunction()
